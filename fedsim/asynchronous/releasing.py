"""What the server makes of the reports that arrive in an asynchronous run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedsim.asynchronous.schedule import Turn
from fedsim.asynchronous.waiting import Waiting
from fedsim.privacy.clipping import clip_rows
from fedsim.seeding import Stream, private_generator

if TYPE_CHECKING:
    from fedsim.server import Session


def release_arrived(session: Session, waiting: Waiting, turn: Turn) -> Tensor | None:
    """The step's aggregated report; None if nothing of use has arrived.

    A report counts its weight times that of its staleness; the weights alone divide, or with noise at the server the
    public size of the buffer.
    """
    federation, method = session.federation, waiting.schedule.method
    weights, reports, models = waiting.take(turn.arrived)
    if len(turn.arrived) == 0:
        return None
    late = torch.from_numpy(method.staleness.weights(turn.staleness))
    if federation.plan.trusts_the_server:
        aggregate = _noised(session, turn, weights.clamp(max=1.0) * late, reports)
    elif weights.sum() == 0:
        return None
    else:
        aggregate = (weights * late) @ reports.double() / weights.sum()
    if method.mixes:  # one report: towards the client's own model, which is what it started from and its update
        params = session.server.params.detach().cpu()
        aggregate[: len(params)] += late[0] * (models[0].double() - params.double())
    return (method.factor * aggregate).to(federation.device)


def _noised(session: Session, turn: Turn, weights: Tensor, reports: Tensor) -> Tensor:
    """The noised sum over the buffer's public size; with weights of at most 1 a client adds at most the clip norm."""
    federation, plan = session.federation, session.federation.plan.client
    assert plan is not None
    clip_norm = session.clip_norms["client"]
    clipped, _ = clip_rows(reports, clip_norm)  # the server clips again what it sees one by one
    rng = private_generator(federation.plan.randomness, Stream.SERVER_NOISE, federation.scenario.draw_seed, turn.number)
    return plan.mechanism(clip_norm).release(weights @ clipped.double(), rng).total / plan.expected_weight
