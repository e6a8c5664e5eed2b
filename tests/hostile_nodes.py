"""Simulations over three nodes in this process, of which one may send what it likes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flwr.app import Error, Message

import fedsim
from fedsim import running
from fedsim.client import app, host
from fedsim.collecting import Collected, collect
from fedsim.engines import InProcessGrid
from fedsim.exchange import make_jobs
from fedsim.federation import build_federation
from fedsim.messages import TrainJob, pack_job
from fedsim.record import RunDirectory
from fedsim.server import Session
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL

NODES, HOSTILE = (1, 2, 3), 2
Spoil = Callable[[int, list[Message]], list[Message]]  # of a round and its replies

ADAPTIVE = 'clipping={{kind="adaptive", {}}}'
DEVICES = 'devices={compute={kind="lognormal", median=20, sigma=1.5}}'
# Every kind of reply that there is: what is added up, reported one by one, counted, kept, or compressed.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "sum": (SMALL, ()),
    "example level": (SMALL + EXAMPLE_PRIVACY, ()),
    "client level": (SMALL + CLIENT_PRIVACY, ()),
    "capped weights": (SMALL + CLIENT_PRIVACY, ('algorithm.weighting="examples"', "algorithm.weight_cap=100")),
    "adaptive": (
        SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY,
        ('privacy.client.clipping={kind="adaptive", count_noise=1.0}',),
    ),
    "adaptive gradients": (SMALL + EXAMPLE_PRIVACY, ('privacy.example.clipping={kind="adaptive"}',)),
    "local": (SMALL + CLIENT_PRIVACY + 'placement = "client"\n', ()),
    "local, one by one": (
        SMALL + CLIENT_PRIVACY + 'placement = "client"\n',
        ('algorithm.aggregation.kind="median"',),
    ),
    "one by one": (SMALL, ('algorithm.aggregation.kind="median"',)),
    "bounded": (SMALL, ('algorithm.aggregation={kind="norm_bound", bound=0.3}',)),
    "a second vector, kept": (SMALL, ('algorithm.name="scaffold"',)),
    "a number beside": (SMALL, ('algorithm.name="fednova"',)),
    "compressed, kept": (
        SMALL,
        ('communication={compression={kind="top_k", share=0.1}, error_feedback=true}',),
    ),
    "local, compressed": (
        SMALL + CLIENT_PRIVACY + 'placement = "client"\n',
        ('communication.compression={kind="random_k", share=0.01}',),
    ),
    "asynchronous": (
        SMALL + CLIENT_PRIVACY,
        (DEVICES, 'asynchronous={kind="fedbuff", buffer_size=3, concurrency=5}'),
    ),
}


@dataclass
class Nodes(InProcessGrid):
    """Three nodes that are this process; ``spoil`` may change a round's replies."""

    def __init__(self, spoil: Spoil = lambda round_, replies: replies) -> None:
        super().__init__(app)
        self.spoil = spoil

    def get_node_ids(self) -> Iterable[int]:
        """Three."""
        return list(NODES)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, spoilt."""
        sent = list(messages)
        replies = [self._deliver(message) for message in sent]
        return self.spoil(int(sent[0].metadata.group_id), replies) if sent else []


class Kept:
    """What clients keep, in memory."""

    def __init__(self, clients: int, size: int) -> None:
        self.rows = np.zeros((clients, size), np.float32)

    def read(self, clients: np.ndarray) -> np.ndarray:
        """Copies of their rows."""
        return self.rows[clients]

    def write(self, round_: int, clients: np.ndarray, rows: np.ndarray) -> None:
        """Replace their rows."""
        self.rows[clients] = rows


def scenario_of(kind: str, *overrides: str) -> fedsim.Scenario:
    """The scenario whose replies are of a kind."""
    text, own = KINDS[kind]
    return fedsim.parse_scenario(text, "small", (*own, *overrides))


def run_over(nodes: Nodes, scenario: fedsim.Scenario, out: Path) -> fedsim.Result:
    """A whole run over the nodes."""
    federation = build_federation(scenario)
    session = running._open(federation, RunDirectory.create(out, scenario), None)
    host(federation, session.store)
    session.sends_state = True
    nodes.session = session
    return running._finish(session, *running._rounds(session, lambda: fedsim.server.run_rounds(session, nodes)), 0.0)


@dataclass
class Exchange:
    """One round's jobs and honest replies, to be collected as often as one likes."""

    session: Session
    jobs: dict[int, TrainJob]
    sent: dict[int, Message]
    honest: dict[int, Message]

    @classmethod
    def of(cls, kind: str, folder: Path) -> Exchange:
        """The first round of a kind's scenario, with everybody in it."""
        federation = build_federation(scenario_of(kind))
        session = running._open(federation, RunDirectory.create(folder / "run", federation.scenario), None)
        if federation.state_size:
            session.store = Kept(len(federation.population), federation.state_size)  # type: ignore[assignment]
            session.sends_state = True
        host(federation, None)
        nodes = Nodes()
        jobs = make_jobs(session, nodes, 1, np.arange(len(federation.population)))
        sent = {node: pack_job(job, node) for node, job in jobs.items()}
        honest = {node: nodes._deliver(message) for node, message in sent.items()}
        assert not any(reply.has_error() for reply in honest.values()), honest[1].error.reason
        return cls(session, jobs, sent, honest)

    def error(self) -> Message:
        """The hostile node's word that it has no answer."""
        return Message(Error(1, "none"), reply_to=self.sent[HOSTILE])

    def with_reply(self, *instead: Message) -> Collected:
        """What is collected when this comes from the hostile node, or about it, and the others are honest."""
        others = [reply for node, reply in self.honest.items() if node != HOSTILE]
        return collect(self.session, self.jobs, [others[0], *instead, *others[1:]])


def same(one: Collected, other: Collected) -> bool:
    """Whether the same was collected, but for how many replies were rejected."""
    names = ("asked", "invalid", "example_count", "client_count", "dropped", "counted")
    rows = [[array.tobytes() for array in vars(part).values()] for part in one.rows]
    return (
        one.updates.total.equal(other.updates.total)
        and one.updates.weight == other.updates.weight
        and all(getattr(one, name) == getattr(other, name) for name in names)
        and rows == [[array.tobytes() for array in vars(part).values()] for part in other.rows]
    )
