"""What the server makes sure of before a node's reply counts: that it answers the job, and that it can be right.

In a simulation a node is a process of ours, which may be broken; in a deployment it is a site, which may be hostile.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from fedsim.federation import Federation
from fedsim.messages import MalformedMessage, TrainJob, TrainReply, check_answers, unpack_reply
from fedsim.privacy.events import Event
from fedsim.privacy.plan import adaptive
from fedsim.updates import LONGEST, client_weights

# A sum of squares of n normals exceeds n by more than this many deviations with probability below 1e-12.
DEVIATIONS = 8.0
ROUNDING = 1 + 1e-6
REMEDY = "Lower a learning rate."


def read_reply(federation: Federation, job: TrainJob, message: Message) -> TrainReply:
    """The reply to a job; raises ``MalformedMessage`` for an error, and for everything that no honest node sends."""
    if message.has_error():
        raise MalformedMessage(message.error.reason or f"error {message.error.code}")
    check_answers(message, job)
    reply = unpack_reply(message, federation.report_size, job.clients, federation.stacks)
    if reply.events != charged_events(federation, job):
        raise MalformedMessage("its privacy noise does not match what the ledger was charged for it")
    _check_weights(federation, job, reply)
    _check_counts(federation, job, reply)
    _check_lengths(federation, job, reply)
    _check_state(federation, job, reply)
    return reply


def charged_events(federation: Federation, job: TrainJob) -> Counter[Event]:
    """The events of the noise that the job's clients add themselves."""
    events: Counter[Event] = Counter()
    for charge in federation.plan.charges(job.round, job.clients):
        if charge.unit == "example" or not federation.plan.trusts_the_server:
            assert charge.clients is not None
            events[charge.event] += charge.count * len(charge.clients)
    return events


def longest_report(federation: Federation, job: TrainJob) -> float:
    """How long one client's report can be: as it was clipped, and noised where that is done before it is sent."""
    plan, bound = federation.plan.client, federation.scenario.algorithm.aggregation.bound
    if plan is None:
        return min(bound, LONGEST)
    norm = job.clip_norms["client"]
    if plan.placement == "server":
        return norm
    if federation.scenario.communication.compresses:
        return LONGEST  # what is compressed after the noise is right on average, and may be longer
    size, deviation = federation.report_size, plan.mechanism(norm).deviation
    return norm + deviation * math.sqrt(size + DEVIATIONS * math.sqrt(2.0 * size) + DEVIATIONS**2)


def _check_weights(federation: Federation, job: TrainJob, reply: TrainReply) -> None:
    """Weights follow from what is known of the clients; a node does not choose them."""
    expected = client_weights(federation, job.clients).cpu().numpy()
    if not math.isclose(reply.weight, expected.sum(), rel_tol=1e-9):
        raise MalformedMessage(f"it claims weight {reply.weight:g}; what is known makes {expected.sum():g}")
    if reply.rows is not None:
        order = np.argsort(job.clients)
        own = expected[order[np.searchsorted(job.clients[order], reply.rows.clients)]]
        if not np.allclose(reply.rows.weights, own, rtol=1e-9, atol=0.0):
            raise MalformedMessage("it claims weights for its reports that are not its clients'")


def _check_counts(federation: Federation, job: TrainJob, reply: TrainReply) -> None:
    """Centred counts are at most half of what is counted, and zero where the clip norm does not adapt to them.

    A report that is missing was invalid; where clients add the noise, nobody says whether any was.
    """
    local = federation.plan.client is not None and not federation.plan.trusts_the_server
    missing = reply.clients - len(reply.rows.clients) if reply.rows is not None else 0
    if (local and reply.invalid) or (not local and missing > reply.invalid):
        raise MalformedMessage(f"{missing} reports are missing, and {reply.invalid} are said to be invalid")
    example, client = federation.plan.example, adaptive(federation.plan.client)
    most = {"example_count": 0.0, "client_count": len(job.clients) / 2 if client else 0.0}
    if example is not None and adaptive(example) is not None:
        steps = example.steps[job.clients]
        noise = (example.count_noise or 0.0) * math.sqrt(float(steps.sum()))
        most["example_count"] = float(steps @ federation.population.sizes[job.clients]) / 2 + DEVIATIONS * noise
    for name, bound in most.items():
        if not abs(getattr(reply, name)) <= bound:
            raise MalformedMessage(f"{name} {getattr(reply, name):g} is impossible; at most {bound:g} can be right")


def _check_lengths(federation: Federation, job: TrainJob, reply: TrainReply) -> None:
    """A sum of reports is no longer than their weights times the longest that one can be."""
    bound = longest_report(federation, job)
    with np.errstate(over="ignore"):
        total = float(np.linalg.norm(reply.total))
        rows = _lengths(reply.rows.reports) if reply.rows is not None else np.zeros(1)
    if not total <= bound * reply.weight * ROUNDING:
        most = f"at most {bound * reply.weight:.4g} can be right"
        raise MalformedMessage(f"its sum has length {total:.4g}; {most}. It is not honest, or it diverged: {REMEDY}")
    if not float(rows.max(initial=0.0)) <= bound * ROUNDING:
        raise MalformedMessage(f"a report has length {rows.max():.4g}; at most {bound:.4g} can be right")


def _check_state(federation: Federation, job: TrainJob, reply: TrainReply) -> None:
    """What clients keep comes back from where it was sent to, and only from there, and goes to them in later rounds."""
    given = None if reply.state is None else reply.state.shape
    expected = (len(job.clients), federation.state_size) if job.state.size else None
    if given != expected:
        raise MalformedMessage(f"what clients keep has shape {given}; {expected} is expected")
    if reply.state is not None and not (_lengths(reply.state) <= LONGEST).all():
        raise MalformedMessage("what clients keep is not finite, or no training made it")


def _lengths(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean lengths ``[rows]`` in float64; NaN or infinite for rows that are."""
    squares: NDArray[np.float64] = np.einsum("rv,rv->r", rows, rows, dtype=np.float64)
    return np.sqrt(squares)
