"""Runs of small federations without a summary or a report, on grids that do what no engine promises not to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedsim.client import app, host
from fedsim.engines import InProcessGrid
from fedsim.engines.grid import EngineGrid
from fedsim.federation import Federation
from fedsim.messages import pack_job, unpack_job
from fedsim.record import RunDirectory
from fedsim.running import _open
from fedsim.server import run_rounds


class Permuted(InProcessGrid):
    """One node that gets each job's clients in an order of its own."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and yield each reply."""
        for message in messages:
            job = unpack_job(message)
            clients = np.random.default_rng(job.round).permutation(job.clients)
            yield self._deliver(pack_job(replace(job, clients=clients), message.metadata.dst_node_id))


class Nodes(InProcessGrid):
    """Three nodes, as Ray's actors are: what clients keep travels with the jobs, and the last is the first to reply."""

    keeps_state = False

    def get_node_ids(self) -> Iterable[int]:
        """From 1."""
        return range(1, 4)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """The replies, in the opposite order of the messages."""
        return [self._deliver(message) for message in messages][::-1]


@dataclass(frozen=True)
class Played:
    """The model after a run ``[params]``, what its record says, seconds aside, and a digest of both."""

    params: Tensor
    rows: list[dict[str, object]]

    @property
    def digest(self) -> str:
        """The same only for the same bits."""
        rows = json.dumps(self.rows).encode()
        return hashlib.sha256(self.params.numpy().tobytes() + rows).hexdigest()[:16]

    def distance(self, other: Played) -> float:
        """The largest difference of a parameter, in units of the largest parameter."""
        return float((self.params - other.params).abs().max() / other.params.abs().max())


def play(federation: Federation, folder: Path, grid: Callable[[ClientApp], EngineGrid] = InProcessGrid) -> Played:
    """Run all rounds of a federation and forget it; ``folder`` must not exist."""
    session = _open(federation, RunDirectory.create(folder, federation.scenario), None)
    opened = grid(app)
    session.sends_state = not opened.keeps_state
    host(federation, session.store)
    run_rounds(session, opened)
    session.ledger.close()
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in session.directory.rounds()]
    return Played(session.server.params.detach().clone(), rows)
