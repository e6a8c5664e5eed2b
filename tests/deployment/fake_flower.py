"""Flower without its network: sites answer in this process, through the same ClientApp, grid and round loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import Context, Message, RecordDict

from fedsim.deployment.control import Connection
from fedsim.deployment.folders import Address, init
from fedsim.deployment.link import RunGone
from fedsim.deployment.site import app

Handler = Callable[[Message], Message | None]


class Node(NamedTuple):
    """What Flower says of a SuperNode."""

    public_key: bytes
    node_id: int


def real_site(folder: Path, data: str | Path) -> Handler:
    """A site that answers as it would behind a SuperNode."""
    config = {"folder": str(folder), "data": str(data)}

    def handle(message: Message) -> Message:
        return app(message, Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config={}))

    return handle


@dataclass
class FakeFlower:
    """Stands for the link and for Flower's grid; ``sites`` by node id, of which some may be offline."""

    keys: dict[int, bytes]
    sites: dict[int, Handler]
    offline: set[int] = field(default_factory=set)
    opened: int = 0
    fail_next: int = 0  # so many calls find that Flower gave the run up
    replies: dict[str, Message] = field(default_factory=dict)

    def open(self) -> None:
        """A run in Flower."""
        self.opened += 1

    def close(self) -> None:
        """Its end."""

    def call(self, ask: Callable[[Any], Any]) -> Any:
        """Ask the grid."""
        if self.fail_next:
            self.fail_next -= 1
            raise RunGone("gone")
        return ask(self)

    def get_nodes(self) -> list[Node]:
        """Those that are online."""
        return [Node(self.keys[node], node) for node in self.sites if node not in self.offline]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Every site answers at once."""
        ids = []
        for message in messages:
            number = f"m{len(self.replies)}-{len(ids)}"
            message.metadata.__dict__["_message_id"] = number
            ids.append(number)
            reply = self.sites[message.metadata.dst_node_id](message)
            if reply is not None:
                self.replies[number] = reply
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        """The answers that there are."""
        return [self.replies.pop(number) for number in ids if number in self.replies]


@dataclass
class Made:
    """A deployment on disk, and the fake Flower in front of its sites."""

    folder: Path
    flower: FakeFlower
    names: list[str]

    def node(self, name: str) -> int:
        """The node of a site."""
        return self.names.index(name) + 1

    def site(self, name: str) -> Path:
        """A site's folder."""
        return self.folder / f"site-{name}"

    def set(self, name: str, **values: str) -> None:
        """Change lines of a site's site.toml."""
        file = self.site(name) / "site.toml"
        lines = file.read_text().splitlines()
        for key, value in values.items():
            (at,) = [number for number, line in enumerate(lines) if line.startswith(f"{key} =")]
            lines[at] = f"{key} = {value}"
        file.write_text("\n".join(lines) + "\n")

    @property
    def connection(self) -> Connection:
        """What stands for Flower's connection."""
        server = self.folder / "server"
        return Connection("localhost:1", server / "ca.crt", server / "runs.secret")


def make(folder: Path, data: dict[str, Path | str]) -> Made:
    """A deployment of these sites, each with its file."""
    from fedsim.deployment.serving import site_keys

    names = sorted(data)
    init(folder, names, Address("localhost"))
    keys = site_keys(folder / "server")
    numbered = dict(enumerate(names, 1))
    sites = {number: real_site(folder / f"site-{name}", data[name]) for number, name in numbered.items()}
    return Made(folder, FakeFlower({number: keys[name] for number, name in numbered.items()}, sites), names)
