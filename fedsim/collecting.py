"""The nodes' replies of a round: checked one by one, then added up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from flwr.app import Message

from fedsim.aggregation import WeightedSum
from fedsim.attacking import hostile_alone
from fedsim.decoding import printable
from fedsim.errors import FedsimError
from fedsim.federation import Federation
from fedsim.messages import REJECTED, MalformedMessage, Rows, TrainJob, TrainReply
from fedsim.record import Progress
from fedsim.replies import read_reply

if TYPE_CHECKING:
    from fedsim.server import Session


@dataclass
class Collected:
    """A round's replies added up: reports, how many clients dropped out, invalid reports, and centred counts.

    ``rows`` are the reports one by one, where the server needs every one; ``job`` is one of those that were sent;
    ``rejected`` counts replies that cannot be right, whose clients dropped out unless their node had another.
    """

    updates: WeightedSum
    asked: int
    job: TrainJob | None = None
    rows: list[Rows] = field(default_factory=list)
    invalid: int = 0
    rejected: int = 0
    example_count: float = 0.0
    client_count: float = 0.0

    @property
    def dropped(self) -> int:
        """Clients that were asked and did not answer."""
        return self.asked - self.updates.clients

    @property
    def counted(self) -> int:
        """Clients over whose reports the mean is: an invalid one is a zero in a sum, and missing among rows."""
        return sum(len(part.clients) for part in self.rows) if self.rows else self.updates.clients

    def add(self, reply: TrainReply) -> None:
        """Add one node's reply."""
        device = self.updates.total.device
        self.updates.add_sum(torch.from_numpy(reply.total).to(device), reply.weight, reply.clients)
        self.rows += [reply.rows] if reply.rows is not None else []
        self.invalid += reply.invalid
        self.example_count += reply.example_count
        self.client_count += reply.client_count

    def count(self, progress: Progress) -> None:
        """Add what was wrong in the round to what was wrong in the run."""
        progress.invalid_updates += self.invalid
        progress.rejected += self.rejected


def collect(session: Session, jobs: dict[int, TrainJob], replies: Any) -> Collected:
    """Sum the nodes' replies.

    A client that drops out is a zero vector: its share of the privacy is spent all the same. So is a client whose
    node's reply is rejected. Raises ``FedsimError`` if no node is left.
    """
    federation, heard = session.federation, Heard()
    sums = Collected(
        WeightedSum(federation.sum_size, federation.device),
        sum(len(job.clients) for job in jobs.values()),
        next(iter(jobs.values()), None),
    )
    for job, reply in heard.good(federation, jobs, replies):
        if session.store is not None and reply.state is not None:
            session.store.write(job.round, job.clients, reply.state)
        sums.add(reply)
    sums.rejected, failure = heard.rejected, heard.failure
    if sums.asked and sums.dropped == sums.asked:
        # A client's traceback is for --debug; its last line says what went wrong.
        reason = (failure.strip() or "no reply").splitlines()[-1]
        raise FedsimError(f"No node answered in this round. The last reason: {reason}") from RuntimeError(failure)
    protected = federation.plan.client is not None
    if sums.asked and sums.invalid == sums.asked and not protected and not hostile_alone(federation, jobs.values()):
        round_ = session.progress.round + 1
        raise FedsimError(
            f"Training diverged in round {round_}: every client's update is NaN or infinite. Lower a learning rate."
        )
    return sums


def remember(session: Session, jobs: dict[int, TrainJob], replies: Any) -> int:
    """Keep what the jobs' clients remember, of replies that otherwise count as not arrived; how many are rejected."""
    heard = Heard()
    for job, reply in heard.good(session.federation, jobs, replies):
        if session.store is not None and reply.state is not None:
            session.store.write(job.round, job.clients, reply.state)
    return heard.rejected


@dataclass
class Heard:
    """What came in answer to a round's jobs: how many replies were rejected, and why the last that failed did."""

    rejected: int = 0
    failure: str = ""

    def good(
        self, federation: Federation, jobs: dict[int, TrainJob], replies: Any
    ) -> Iterator[tuple[TrainJob, TrainReply]]:
        """Each job with the first good reply of its node; what else comes is rejected, and its node may yet answer."""
        waiting = dict(jobs)
        # In the order of the nodes, so that the sum's rounding does not depend on which answers first.
        for message in sorted(replies, key=lambda message: message.metadata.src_node_id):
            node = message.metadata.src_node_id
            try:
                if node not in waiting:
                    raise MalformedMessage("a node answered twice, or without being asked")
                reply = read_reply(federation, waiting[node], message)
            except MalformedMessage as error:
                self._note(node, message, str(error))
                continue
            yield waiting.pop(node), reply

    def _note(self, node: int, message: Message, reason: str) -> None:
        """An error says that there is no answer, unless it stands for one that the engine rejected and told of."""
        self.failure = reason
        if message.has_error():
            self.rejected += message.error.code == REJECTED
        else:
            self.rejected += 1
            logging.getLogger("fedsim").warning("A reply of node %d is rejected: %s", node, printable(reason))
