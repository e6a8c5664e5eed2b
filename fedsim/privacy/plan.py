"""The privacy plan: sampling, clipping, noise, accounting event, unit and adversary of a run, bound together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.events import Composition, Event, compose
from fedsim.privacy.mechanism import GaussianSum
from fedsim.privacy.sampling import All, CohortSampling, Ids

if TYPE_CHECKING:
    from fedsim.scenario import ExamplePrivacy, Scenario

Unit = Literal["example", "client"]

# A target epsilon is calibrated for as many rounds as a client takes part in with this probability; the ledger keeps
# a client that is drawn more often out of further rounds, so the target holds for every client all the same.
PARTICIPATION_QUANTILE = 0.999


@dataclass(frozen=True)
class Charge:
    """``count`` events at each of ``clients`` (ascending ids), or at every client of the population (``None``)."""

    unit: Unit
    event: Event
    count: int
    clients: Ids | None


@dataclass(frozen=True)
class ExamplePlan:
    """DP-SGD in every client: per client a Poisson ``rate`` of a record, ``steps`` a round and a noise multiplier.

    Clients are disjoint, so each has an epsilon of its own and one record is protected by that of its client. The
    denominator of every step is ``batch_size``, which is public.
    """

    clip_norm: float
    delta: float
    batch_size: int
    rates: NDArray[np.float64]
    steps: NDArray[np.int64]
    noise_multipliers: NDArray[np.float64]
    participations: int
    budget: float | None = None
    unit: Unit = "example"

    def event(self, client: int) -> Event:
        """What one step of the client releases."""
        return Event(float(self.noise_multipliers[client]), float(self.rates[client]), "poisson")

    def mechanism(self, client: int) -> GaussianSum:
        """What noises the client's gradient sums."""
        return GaussianSum(self.event(client), self.clip_norm)

    def charges(self, cohort: Ids) -> list[Charge]:
        """One charge per distinct (noise, rate, steps) in the cohort."""
        keys = np.stack([self.noise_multipliers[cohort], self.rates[cohort], self.steps[cohort]], axis=1)
        _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        return [
            Charge("example", self.event(cohort[lead]), int(self.steps[cohort[lead]]), cohort[group.ravel() == number])
            for number, lead in enumerate(first)
        ]


@dataclass(frozen=True)
class ClientPlan:
    """DP-FedAvg: updates clipped to ``clip_norm``, summed, noised at the server, divided by the expected weight."""

    clip_norm: float
    delta: float
    event: Event
    expected_weight: float
    budget: float | None = None
    unit: Unit = "client"

    @property
    def mechanism(self) -> GaussianSum:
        """What noises a round's sum of updates."""
        return GaussianSum(self.event, self.clip_norm)

    def charges(self) -> list[Charge]:
        """One event for every client of the population: the draw of the cohort is part of the mechanism."""
        return [Charge("client", self.event, 1, None)]


@dataclass(frozen=True)
class PrivacyPlan:
    """Both units' plans and the cohort sampling they rely on."""

    sampling: CohortSampling
    example: ExamplePlan | None = None
    client: ClientPlan | None = None

    @property
    def units(self) -> list[ExamplePlan | ClientPlan]:
        """The plans that are on."""
        return [plan for plan in (self.example, self.client) if plan is not None]

    def charges(self, cohort: Ids) -> list[Charge]:
        """What a round with this cohort spends."""
        spent = self.example.charges(cohort) if self.example else []
        return spent + (self.client.charges() if self.client else [])


def make_plan(scenario: Scenario, sizes: NDArray[np.int64]) -> PrivacyPlan:
    """The plan for a population whose clients hold ``sizes`` records; raises ``BadInput`` for an invalid delta."""
    sampling = scenario.cohort.sampling
    example = _example_plan(scenario, sizes) if scenario.privacy.example else None
    client = _client_plan(scenario, sizes) if scenario.privacy.client else None
    return PrivacyPlan(sampling, example, client)


def local_steps(scenario: Scenario, rates: NDArray[np.float64]) -> NDArray[np.int64]:
    """Local steps a round for clients that draw a record with these rates a step: one pass takes 1 / rate steps."""
    local = scenario.algorithm.local
    if local.steps is not None:
        return np.full(len(rates), local.steps, np.int64)
    return local.epochs * np.maximum(1, np.rint(1 / rates)).astype(np.int64)


def _example_plan(scenario: Scenario, sizes: NDArray[np.int64]) -> ExamplePlan:
    settings = scenario.privacy.example
    assert settings is not None
    batch_size = scenario.algorithm.local.batch_size
    if settings.sampling_rate is None:
        rates = np.minimum(1.0, batch_size / sizes)
    else:
        rates = np.full(len(sizes), settings.sampling_rate)
    steps = local_steps(scenario, rates)
    times = _participations(scenario, len(sizes))
    return ExamplePlan(
        clip_norm=settings.clip_norm,
        delta=settings.delta,
        batch_size=batch_size,
        rates=rates,
        steps=steps,
        noise_multipliers=_noise(settings, rates, steps * times),
        participations=times,
        budget=settings.budget or settings.target_epsilon,
    )


def _participations(scenario: Scenario, clients: int) -> int:
    """Rounds to calibrate a client's noise for."""
    from scipy.stats import binom

    if isinstance(scenario.cohort.sampling, All):
        return scenario.rounds
    probability = scenario.cohort.sampling.participation(clients)
    return max(1, int(binom.ppf(PARTICIPATION_QUANTILE, scenario.rounds, probability)))


def _noise(settings: ExamplePrivacy, rates: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each client's noise multiplier: the common one, or the smallest that keeps ``counts`` steps within the target."""
    if settings.noise_multiplier is not None:
        return np.full(len(rates), settings.noise_multiplier)
    assert settings.target_epsilon is not None
    pairs, group = np.unique(np.stack([rates, counts], axis=1), axis=0, return_inverse=True)
    target, delta = settings.target_epsilon, settings.delta
    calibrated = [noise_for(float(rate), int(count), "poisson", target, delta) for rate, count in pairs]
    return np.array(calibrated)[group.ravel()]


@cache
def noise_for(rate: float, count: int, sampling: Literal["poisson", "none"], target: float, delta: float) -> float:
    """The smallest noise multiplier with which ``count`` events stay within (target, delta) under add/remove."""
    from fedsim.privacy.calibration import calibrate_noise

    def at(noise: float) -> Composition:
        return compose([(Event(noise, rate, sampling), count)])

    return calibrate_noise(at, target, delta)


def _client_plan(scenario: Scenario, sizes: NDArray[np.int64]) -> ClientPlan:
    settings, sampling = scenario.privacy.client, scenario.cohort.sampling
    assert settings is not None
    noise = settings.noise_multiplier
    if noise is None:
        assert settings.target_epsilon is not None
        like = sampling.event(1.0)
        assert like.sampling != "fixed"
        noise = noise_for(like.rate, scenario.rounds, like.sampling, settings.target_epsilon, settings.delta)
    return ClientPlan(
        clip_norm=settings.clip_norm,
        delta=settings.delta,
        event=sampling.event(noise),
        expected_weight=sampling.participation(len(sizes)) * len(sizes),
        budget=settings.budget or settings.target_epsilon,
    )
