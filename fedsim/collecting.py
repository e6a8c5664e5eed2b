"""The nodes' replies of a round: checked one by one, then added up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import Message

from fedsim.aggregation import WeightedSum
from fedsim.attacking import hostile_alone
from fedsim.errors import FedsimError
from fedsim.federation import Federation
from fedsim.messages import MalformedMessage, Rows, TrainJob, TrainReply, unpack_reply
from fedsim.privacy.events import Event

if TYPE_CHECKING:
    from fedsim.server import Session


@dataclass
class Collected:
    """A round's replies added up: reports, how many clients dropped out, invalid reports, and centred counts.

    ``rows`` are the reports one by one, where the server needs every one; ``job`` is one of those that were answered.
    """

    updates: WeightedSum
    asked: int
    job: TrainJob | None = None
    rows: list[Rows] = field(default_factory=list)
    invalid: int = 0
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


def collect(session: Session, jobs: dict[int, TrainJob], replies: Any) -> Collected:
    """Sum the nodes' replies.

    A client that drops out is a zero vector: its share of the privacy is spent all the same. Raises ``FedsimError`` if
    every node failed, or if a node's noise does not match what the ledger was charged.
    """
    federation, failure, waiting = session.federation, "", dict(jobs)
    size = federation.report_size
    sums = Collected(
        WeightedSum(federation.sum_size, federation.device),
        sum(len(job.clients) for job in jobs.values()),
        next(iter(jobs.values()), None),
    )
    # In the order of the nodes, so that the sum's rounding does not depend on which answers first.
    for message in sorted(replies, key=lambda message: message.metadata.src_node_id):
        job = waiting.pop(message.metadata.src_node_id, None)
        if job is None:
            failure = "a node answered twice, or without being asked"
            continue
        try:
            reply = unpack_reply(_content(message), size, job.clients, federation.stacks)
            _check_length(session, reply)
            _check_state(session, job, reply)
        except MalformedMessage as error:
            failure = str(error)
            continue
        if reply.events != charged_events(federation, job):
            raise FedsimError(
                "A node's privacy noise does not match what the ledger was charged for it; the run stops."
            )
        if session.store is not None and reply.state is not None:
            session.store.write(job.round, job.clients, reply.state)
        sums.add(reply)
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


def remember(session: Session, jobs: dict[int, TrainJob], replies: Any) -> None:
    """Keep what the jobs' clients remember, of replies that otherwise count as not arrived."""
    federation = session.federation
    for message in replies:
        job = jobs[message.metadata.src_node_id]
        if session.store is None or message.has_error():
            continue
        reply = unpack_reply(message, federation.report_size, job.clients, federation.stacks)
        _check_state(session, job, reply)
        if reply.state is not None:
            session.store.write(job.round, job.clients, reply.state)


def _check_length(session: Session, reply: TrainReply) -> None:
    """A sum of clipped updates cannot be longer than the clip norm for each; only a broken node would send that."""
    if session.federation.plan.trusts_the_server:
        longest = reply.clients * session.clip_norms["client"]
        if float(np.linalg.norm(reply.total)) > longest * (1 + 1e-6):
            raise MalformedMessage(f"the sum of {reply.clients} clipped updates is longer than {longest:g}")


def _check_state(session: Session, job: TrainJob, reply: TrainReply) -> None:
    """What clients keep comes back from where it was sent to, and only from there."""
    given = None if reply.state is None else reply.state.shape
    expected = (len(job.clients), session.federation.state_size) if job.state.size else None
    if given != expected:
        raise MalformedMessage(f"what clients keep has shape {given}; {expected} is expected")


def _content(message: Message) -> Message:
    if message.has_error():
        raise MalformedMessage(message.error.reason or f"error {message.error.code}")
    return message


def charged_events(federation: Federation, job: TrainJob) -> Counter[Event]:
    """The events of the noise that the job's clients add themselves."""
    events: Counter[Event] = Counter()
    for charge in federation.plan.charges(job.round, job.clients):
        if charge.unit == "example" or not federation.plan.trusts_the_server:
            assert charge.clients is not None
            events[charge.event] += charge.count * len(charge.clients)
    return events
