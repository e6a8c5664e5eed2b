"""What a client makes sure of before it trains for a job: that the job belongs to the scenario, whoever sent it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from fedsim.federation import Federation
from fedsim.messages import MalformedMessage, TrainJob
from fedsim.privacy.clip_settings import AdaptiveClip
from fedsim.privacy.plan import ClientPlan, ExamplePlan

# A key stream's words are addressed by rounds of 32 bits: the words of a later round would be those of an earlier one.
MOST_ROUNDS = 2**31
ROUNDING = 1 + 1e-6


def check_job(federation: Federation, job: TrainJob) -> None:
    """Raise ``MalformedMessage`` with all reasons why a job is not one of this federation's."""
    reasons = [*_numbers(federation, job), *_clients(federation, job), *_clip_norms(federation, job)]
    if reasons:
        raise MalformedMessage("; ".join(reasons))


def _numbers(federation: Federation, job: TrainJob) -> Iterator[str]:
    rate = federation.scenario.algorithm.local.learning_rate
    if not 1 <= job.round < MOST_ROUNDS:
        yield f"round {job.round} is none"
    if not 0 < job.learning_rate <= rate * ROUNDING:
        yield f"learning rate {job.learning_rate:g}; the scenario's is {rate:g} at most"
    if (len(job.params), len(job.memory)) != (federation.sent_model_size, federation.sent_memory_size):
        yield "the job's parameters do not belong to this scenario"
    elif not (np.isfinite(job.params).all() and np.isfinite(job.memory).all()):
        yield "the model is NaN or infinite"


def _clients(federation: Federation, job: TrainJob) -> Iterator[str]:
    ordered = np.sort(job.clients)
    inside = not len(ordered) or (ordered[0] >= 0 and ordered[-1] < len(federation.population))
    if not inside or (np.diff(ordered) == 0).any():
        yield "the job's client ids do not belong to this scenario, or one is there twice"
    if job.state.shape not in ((0, 0), (len(job.clients), federation.state_size)):
        yield "what clients keep does not belong to this scenario"
    elif not np.isfinite(job.state).all():
        yield "what clients keep is NaN or infinite"


def _clip_norms(federation: Federation, job: TrainJob) -> Iterator[str]:
    for plan in federation.plan.units:
        asked, (least, most) = job.clip_norms.get(plan.unit), clip_norm_range(plan, job.round)
        if asked is None or not least <= asked <= most:
            yield f"the {plan.unit}-level clip norm {asked} is not the scenario's {plan.clip_norm:g}"
    if set(job.clip_norms) - {plan.unit for plan in federation.plan.units}:
        yield "clip norms for units that the scenario does not protect"


def clip_norm_range(plan: ExamplePlan | ClientPlan, round_: int) -> tuple[float, float]:
    """Between what the clip norm of a round must lie: as it is set, or as far as it may have adapted by then."""
    settings = plan.clipping
    if not isinstance(settings, AdaptiveClip):
        return plan.clip_norm, plan.clip_norm
    steps = settings.learning_rate * min(
        max(round_ - 1, 0), 600.0 / settings.learning_rate
    )  # beyond that it is no float
    least, most = math.exp(-steps * (1 - settings.quantile)), math.exp(steps * settings.quantile)
    return plan.clip_norm * least / ROUNDING, plan.clip_norm * most * ROUNDING
