"""Who takes part: every site is asked once, before the first round, and what it says then holds for the run."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.decoding import printable
from fedsim.deployment.wire import Announcement, Order, pack_query, unpack_announcement
from fedsim.durable import write_whole
from fedsim.errors import BadInput, FedsimError
from fedsim.messages import MalformedMessage

if TYPE_CHECKING:
    from fedsim.deployment.site_log import SiteLog
    from fedsim.engines.deployment import DeploymentGrid
    from fedsim.scenario import Deployment

QUERY_SECONDS = 120.0


@dataclass(frozen=True)
class Member:
    """A site that takes part: its registered name and key, its node in Flower, and what it announced."""

    name: str
    key: str
    node: int
    announcement: Announcement


def ask_sites(grid: DeploymentGrid, keys: dict[str, bytes], settings: Deployment, log: SiteLog) -> list[Member]:
    """The sites that accept the scenario, in the order of their names; raises ``FedsimError`` if they are too few."""
    nodes = _wait(grid, keys, settings.join_seconds)
    answers = _query(grid, nodes, len(keys))
    members = []
    for name in sorted(keys):
        found = "not online" if name not in nodes else answers.get(name, "no answer in time")
        if isinstance(found, str):
            log.note(0, name, "refused", found)
        else:
            members.append(Member(name, keys[name].decode(), nodes[name], found))
    members = _alike(members, log)
    if len(members) < settings.min_sites:
        raise FedsimError(
            f"{len(members)} of {len(keys)} site(s) take part; engine.deployment.min_sites = {settings.min_sites}. "
            "Why the others do not is said above."
        )
    for member in members:
        log.note(0, member.name, "accepted")
    return members


def _wait(grid: DeploymentGrid, keys: dict[str, bytes], seconds: float) -> dict[str, int]:
    """The nodes of the sites that are online, by name; waits until all are, but not longer."""
    until = time.monotonic() + seconds
    while True:
        there = grid.nodes()
        nodes = {name: there[key] for name, key in keys.items() if key in there}
        if len(nodes) == len(keys) or time.monotonic() > until:
            return nodes
        time.sleep(0.5)


def _query(grid: DeploymentGrid, nodes: dict[str, int], sites: int) -> dict[str, Announcement | str]:
    """What every site says: its announcement, or why it does not take part."""
    order = grid.order(0, 0)
    numbers = {name: number for number, name in enumerate(sorted(nodes))}
    orders = {name: Order(order.run, numbers[name], sites, 0) for name in nodes}
    text, digest = grid.scenario.to_toml(), grid.scenario.digest
    replies = grid.ask(
        {node: pack_query(text, digest, node, orders[name]) for name, node in nodes.items()}, QUERY_SECONDS
    )
    return {name: _heard(replies[node]) for name, node in nodes.items() if node in replies}


def _heard(reply: Any) -> Announcement | str:
    if reply.has_error():
        return printable(reply.error.reason or f"error {reply.error.code}")
    try:
        found = unpack_announcement(reply)
    except MalformedMessage as error:
        return str(error)
    if found.refusal:
        return found.refusal
    if found.records < 1:
        return f"it announces {found.records} records"
    return found


def _alike(members: list[Member], log: SiteLog) -> list[Member]:
    """The members whose data has the signature that most have."""
    counts = Counter(member.announcement.signature for member in members)
    ranked = counts.most_common(2)
    if len(ranked) > 1 and ranked[0][1] == ranked[1][1]:
        raise FedsimError(
            "The sites' data differ, and no signature is more frequent than the others: "
            + "; ".join(f"{member.name}: {_described(member.announcement)}" for member in members)
        )
    for member in members:
        if member.announcement.signature != ranked[0][0]:
            log.note(0, member.name, "refused", f"its data is unlike the others': {_described(member.announcement)}")
    return [member for member in members if member.announcement.signature == ranked[0][0]]


def _described(found: Announcement) -> str:
    return f"examples {list(found.shape)}, {len(found.names)} {found.kind}"


def save_members(file: Path, members: list[Member]) -> None:
    """Write who takes part, for going on with the run."""
    write_whole(file, (json.dumps([asdict(member) for member in members], indent=2) + "\n").encode())


def load_members(file: Path) -> list[Member]:
    """Who took part when the run began; raises ``BadInput``."""
    try:
        found = json.loads(file.read_text())
        return [Member(**{**each, "announcement": _announcement(each["announcement"])}) for each in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} does not say who takes part in this run ({error}); it cannot go on.") from error


def _announcement(raw: dict[str, Any]) -> Announcement:
    return replace(Announcement(**raw), shape=tuple(raw["shape"]), names=tuple(raw["names"]))
