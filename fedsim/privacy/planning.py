"""From a scenario and the clients' sizes to the privacy plan: rates, steps, calibrated noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import BadInput
from fedsim.privacy.clip_settings import AdaptiveClip, Clipping
from fedsim.privacy.correlated import CorrelatedNoise, StreamingNoise, TreeNoise, banded_coefficients
from fedsim.privacy.events import Composition, Event, compose
from fedsim.privacy.mechanism import sum_noise_multiplier
from fedsim.privacy.plan import ClientPlan, ExamplePlan, Floats, PrivacyPlan
from fedsim.privacy.sampling import All

if TYPE_CHECKING:
    from fedsim.asynchronous.schedule import Schedule
    from fedsim.scenario import ClientPrivacy, ExamplePrivacy, Scenario

# A target epsilon is calibrated for as many rounds as a client takes part in with this probability; the ledger keeps
# a client that is drawn more often out of further rounds, so the target holds for every client all the same.
PARTICIPATION_QUANTILE = 0.999
COUNT_NOISE_SHARE = 1 / 20  # of the expected count; Andrew et al. 2021, section 3


def make_plan(scenario: Scenario, sizes: NDArray[np.int64], schedule: Schedule | None = None) -> PrivacyPlan:
    """The plan for a population whose clients hold ``sizes`` records, in an asynchronous run with its ``schedule``.

    Raises ``BadInput`` for impossible settings.
    """
    example, client = scenario.privacy.example, scenario.privacy.client
    return PrivacyPlan(
        sampling=scenario.cohort.sampling,
        example=_example_plan(scenario, example, sizes, schedule) if example else None,
        client=_client_plan(scenario, client, len(sizes), schedule) if client else None,
        randomness=scenario.privacy.randomness,
    )


def local_steps(scenario: Scenario, rates: Floats) -> NDArray[np.int64]:
    """Local steps a round for clients that draw a record with these rates a step: one pass takes 1 / rate steps."""
    local = scenario.algorithm.local
    if local.steps is not None or scenario.algorithm.one_step:
        return np.full(len(rates), local.steps or 1, np.int64)
    return local.epochs * np.maximum(1, np.rint(1 / rates)).astype(np.int64)


def participations(scenario: Scenario, clients: int, schedule: Schedule | None = None) -> int:
    """Rounds to calibrate the noise of one client's own releases for; known exactly where there is a schedule."""
    from scipy.stats import binom

    if schedule is not None:
        return max(1, schedule.most_starts)
    sampling = scenario.cohort.sampling
    if isinstance(sampling, All):
        return scenario.rounds
    quantile = binom.ppf(PARTICIPATION_QUANTILE, scenario.rounds, sampling.participation(clients))
    return min(max(1, int(quantile)), sampling.times(scenario.rounds))


def example_rates(scenario: Scenario, settings: ExamplePrivacy, sizes: NDArray[np.int64]) -> Floats:
    """The probability of a record to be in a step, at clients of these sizes ``[clients]``."""
    if settings.sampling_rate is not None:
        return np.full(len(sizes), settings.sampling_rate)
    return np.minimum(1.0, scenario.algorithm.local.batch_size / sizes)


def _example_plan(
    scenario: Scenario, settings: ExamplePrivacy, sizes: NDArray[np.int64], schedule: Schedule | None
) -> ExamplePlan:
    batch_size, rates = scenario.algorithm.local.batch_size, example_rates(scenario, settings, sizes)
    deltas = _example_deltas(settings, sizes)
    steps, times = local_steps(scenario, rates), participations(scenario, len(sizes), schedule)
    noise = _example_noise(settings, rates, steps * times, deltas)
    return ExamplePlan(
        clip_norm=settings.clip_norm,
        batch_size=batch_size,
        rates=rates,
        steps=steps,
        noise_multipliers=noise,
        deltas=deltas,
        participations=times,
        clipping=settings.clipping,
        count_noise=_count_noise("privacy.example", settings.clipping, float(noise.max()), batch_size),
        budget=settings.budget or settings.target_epsilon,
    )


def _example_deltas(settings: ExamplePrivacy, sizes: NDArray[np.int64]) -> Floats:
    """Each client's delta; at 1 / n or more, publishing one of n records whole would count as private."""
    if settings.delta_times_n is not None:
        return settings.delta_times_n / sizes
    assert settings.delta is not None
    largest = int(sizes.max())
    if settings.delta >= 1 / largest:
        raise BadInput(
            f"privacy.example.delta = {settings.delta}: must be below 1 / n = {1 / largest:.3g} for the client with "
            f"the most records (n = {largest}); at or above that, publishing one record whole would count as private."
        )
    return np.full(len(sizes), settings.delta)


def _example_noise(settings: ExamplePrivacy, rates: Floats, counts: NDArray[np.int64], deltas: Floats) -> Floats:
    """Each client's noise multiplier: as given, or the smallest that keeps ``counts`` steps within the target.

    ``noise = "common"`` gives every client the noise of the client that needs most.
    """
    if settings.noise_multiplier is not None:
        return np.full(len(rates), settings.noise_multiplier)
    target = settings.target_epsilon
    assert target is not None
    keys, group = np.unique(np.stack([rates, counts, deltas], axis=1), axis=0, return_inverse=True)
    calibrated = np.array([noise_for(Event(1.0, float(q), "poisson"), int(t), target, float(d)) for q, t, d in keys])
    each = calibrated[group.ravel()]
    return np.full(len(rates), each.max()) if settings.noise == "common" else each


@cache
def noise_for(like: Event, count: int, target: float, delta: float) -> float:
    """The smallest noise multiplier with which ``count`` events like this one stay within (target, delta)."""
    from fedsim.privacy.calibration import calibrate_noise

    def at(noise: float) -> Composition:
        return compose([(Event(noise, like.rate, like.sampling, like.relation), count)])

    return calibrate_noise(at, target, delta)


def _count_noise(path: str, clipping: Clipping, noise_multiplier: float, expected: float) -> float | None:
    """Deviation of the noise on the count of unclipped norms: as given, or a twentieth of what is counted."""
    if not isinstance(clipping, AdaptiveClip):
        return None
    chosen = clipping.count_noise or max(COUNT_NOISE_SHARE * expected, noise_multiplier)
    try:
        sum_noise_multiplier(noise_multiplier, chosen)
    except ValueError as error:
        raise BadInput(f"{path}.clipping.{error}.") from error
    return chosen


def _client_plan(scenario: Scenario, settings: ClientPrivacy, clients: int, schedule: Schedule | None) -> ClientPlan:
    event_with, times = _client_event(scenario, settings, clients, schedule)
    noise = settings.noise_multiplier
    if noise is None:
        assert settings.target_epsilon is not None
        noise = noise_for(event_with(1.0), times, settings.target_epsilon, settings.delta)
    expected = scenario.cohort.sampling.participation(clients) * clients
    if schedule is not None:
        expected = float(schedule.method.buffer_size)
    return ClientPlan(
        clip_norm=settings.clip_norm,
        event=event_with(noise),
        deltas=np.full(clients, settings.delta),
        expected_weight=expected,
        placement=settings.placement,
        clipping=settings.clipping,
        count_noise=_count_noise("privacy.client", settings.clipping, noise, expected),
        bands=settings.bands if settings.mechanism == "banded" else None,
        tree=settings.mechanism == "tree",
        projected=expected / settings.projected.cohort if settings.projected else 1.0,
        budget=settings.budget or settings.target_epsilon,
    )


def correlation(plan: ClientPlan, rounds: int) -> CorrelatedNoise | None:
    """The stream of noise that is correlated over the rounds, if the plan's mechanism has one."""
    if plan.tree:
        return TreeNoise(rounds)
    return StreamingNoise(banded_coefficients(rounds, plan.bands)) if plan.bands else None


def _client_event(
    scenario: Scenario, settings: ClientPrivacy, clients: int, schedule: Schedule | None
) -> tuple[Callable[[float], Event], int]:
    """The event of a round as a function of its noise, and how often a client can be charged for it."""
    sampling = scenario.cohort.sampling
    if settings.projected is not None:
        rate = settings.projected.cohort / settings.projected.population
        return lambda noise: Event(noise, rate, "poisson"), scenario.rounds
    if settings.placement == "client":
        return lambda noise: Event(noise, 1.0, "none", "replace-one"), participations(scenario, clients, schedule)
    if schedule is not None:
        # Who takes part in which step is the same when a client's data becomes nothing, and known: no amplification.
        return lambda noise: Event(noise, 1.0, "none", "zero-out"), max(1, schedule.most_arrivals)
    return lambda noise: sampling.event(noise, settings.relation, clients), sampling.times(scenario.rounds)
