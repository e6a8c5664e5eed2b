"""The nodes' replies of a round: checked one by one, then added up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from flwr.app import Message

from fedsim.aggregation import WeightedSum
from fedsim.errors import FedsimError
from fedsim.federation import Federation
from fedsim.messages import MalformedMessage, Rows, TrainJob, TrainReply, unpack_reply
from fedsim.privacy.events import Event

if TYPE_CHECKING:
    from fedsim.server import Session


@dataclass
class Collected:
    """A round's replies added up: reports, how many clients dropped out, invalid reports, and centred counts.

    ``rows`` are the reports one by one, where the server needs every one.
    """

    updates: WeightedSum
    asked: int
    rows: list[Rows] = field(default_factory=list)
    invalid: int = 0
    example_count: float = 0.0
    client_count: float = 0.0

    @property
    def dropped(self) -> int:
        """Clients that were asked and did not answer."""
        return self.asked - self.updates.clients

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
        WeightedSum(federation.sum_size, federation.device), sum(len(job.clients) for job in jobs.values())
    )
    for message in replies:
        job = waiting.pop(message.metadata.src_node_id, None)
        if job is None:
            failure = "a node answered twice, or without being asked"
            continue
        try:
            reply = unpack_reply(_content(message), size, job.clients, federation.stacks)
            _check_length(session, reply)
        except MalformedMessage as error:
            failure = str(error)
            continue
        if reply.events != charged_events(federation, job):
            raise FedsimError(
                "A node's privacy noise does not match what the ledger was charged for it; the run stops."
            )
        sums.add(reply)
    if sums.asked and sums.dropped == sums.asked:
        raise FedsimError(f"No node answered in this round. The last reason: {failure or 'no reply'}")
    if sums.asked and sums.invalid == sums.asked and federation.plan.client is None:
        round_ = session.progress.round + 1
        raise FedsimError(
            f"Training diverged in round {round_}: every client's update is NaN or infinite. Lower a learning rate."
        )
    return sums


def _check_length(session: Session, reply: TrainReply) -> None:
    """A sum of clipped updates cannot be longer than the clip norm for each; only a broken node would send that."""
    if session.federation.plan.trusts_the_server:
        longest = reply.clients * session.clip_norms["client"]
        if float(np.linalg.norm(reply.total)) > longest * (1 + 1e-6):
            raise MalformedMessage(f"the sum of {reply.clients} clipped updates is longer than {longest:g}")


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
