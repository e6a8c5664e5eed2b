"""The privacy plan: sampling, clipping, noise, accounting event, unit and adversary of a run, bound together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.clip_settings import AdaptiveClip, Clipping, FixedClip
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.mechanism import GaussianSum, GaussianSums
from fedsim.privacy.sampling import CohortSampling, Ids
from fedsim.seeding import Stream

Unit = Literal["example", "client"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Charge:
    """``count`` events at each of ``clients`` (ascending ids), or at every client of the population (``None``)."""

    unit: Unit
    event: Event
    count: int
    clients: Ids | None


@dataclass(frozen=True)
class ExamplePlan:
    """DP-SGD in every client: each has a Poisson ``rate`` of a record, ``steps`` a round, a noise multiplier, a delta.

    Clients are disjoint, so each has an epsilon of its own and one record is protected by that of its client. The
    denominator of every step is ``batch_size``, which is public.
    """

    clip_norm: float
    batch_size: int
    rates: Floats
    steps: NDArray[np.int64]
    noise_multipliers: Floats
    deltas: Floats
    participations: int
    clipping: Clipping = FixedClip()
    count_noise: float | None = None
    budget: float | None = None
    unit: Unit = "example"

    def event(self, client: int) -> Event:
        """What one step of the client releases."""
        return Event(float(self.noise_multipliers[client]), float(self.rates[client]), "poisson")

    def mechanisms(self, clients: Ids, clip_norm: float, keystream: Keystream) -> GaussianSums:
        """What noises these clients' gradient sums, at the round's clip norm."""
        first, kinds = np.unique(self._kinds[clients], return_index=True, return_inverse=True)[1:]
        events = tuple(self.event(int(client)) for client in clients[first])
        return GaussianSums(clients, events, kinds, clip_norm, self.count_noise, keystream, Stream.NOISE)

    def charges(self, cohort: Ids) -> list[Charge]:
        """One charge per distinct (noise, rate, steps) in the cohort."""
        kinds = self._kinds[cohort]
        order = np.argsort(kinds, kind="stable")
        kinds, cohort = kinds[order], cohort[order]
        starts = np.flatnonzero(np.diff(kinds, prepend=-1)).tolist()
        parts = [cohort[start:end] for start, end in pairwise([*starts, len(cohort)])]
        return [Charge("example", self.event(part[0]), int(self.steps[part[0]]), part) for part in parts]

    @cached_property
    def _kinds(self) -> NDArray[np.int64]:
        """Clients with the same number here have the same (noise, rate, steps) ``[clients]``."""
        kinds = np.zeros(len(self.rates), np.int64)
        for column in (self.noise_multipliers, self.rates, self.steps):
            values, codes = np.unique(column, return_inverse=True)
            kinds = np.unique(kinds * len(values) + codes, return_inverse=True)[1]  # column by column: rows sort slowly
        return kinds


@dataclass(frozen=True)
class ClientPlan:
    """Clipped updates of whole clients, noised at the server (DP-FedAvg) or by each client itself (local DP).

    With ``bands`` the server's noise is correlated over rounds; ``projected`` is the factor by which the noise of a
    larger hypothetical cohort is scaled down.
    """

    clip_norm: float
    event: Event
    deltas: Floats
    expected_weight: float
    placement: Literal["server", "client"] = "server"
    clipping: Clipping = FixedClip()
    count_noise: float | None = None
    bands: int | None = None
    tree: bool = False
    projected: float = 1.0
    budget: float | None = None
    unit: Unit = "client"

    def mechanism(self, clip_norm: float) -> GaussianSum:
        """What noises a round's sum of updates at the server, at the round's clip norm."""
        return GaussianSum(self.event, clip_norm, self.count_noise)

    def mechanisms(self, clients: Ids, clip_norm: float, keystream: Keystream) -> GaussianSums:
        """What noises each of these clients' own updates (local DP), at the round's clip norm."""
        kinds = np.zeros(len(clients), np.int64)
        return GaussianSums(clients, (self.event,), kinds, clip_norm, self.count_noise, keystream, Stream.LOCAL_NOISE)

    def charges(self, sampling: CohortSampling, round_: int, cohort: Ids) -> list[Charge]:
        """One event: for everybody who might have been drawn, or with local noise for everybody who was."""
        if self.placement == "client":
            return [Charge("client", self.event, 1, cohort)] if len(cohort) else []
        return [Charge("client", self.event, 1, sampling.charged(len(self.deltas), round_))]


@dataclass(frozen=True)
class PrivacyPlan:
    """Both units' plans, the cohort sampling they rely on, and where randomness comes from."""

    sampling: CohortSampling
    example: ExamplePlan | None = None
    client: ClientPlan | None = None
    randomness: Literal["reproducible", "secure"] = "reproducible"

    @property
    def units(self) -> list[ExamplePlan | ClientPlan]:
        """The plans that are on."""
        return [plan for plan in (self.example, self.client) if plan is not None]

    @property
    def trusts_the_server(self) -> bool:
        """Whether client-level noise is added at the server."""
        return self.client is not None and self.client.placement == "server"

    @property
    def hides_the_cohort(self) -> bool:
        """Whether the client-level guarantee rests on nobody knowing who was drawn."""
        return self.client is not None and self.client.event.sampling != "none"

    def charges(self, round_: int, cohort: Ids) -> list[Charge]:
        """What a round with this cohort spends."""
        spent = self.example.charges(cohort) if self.example else []
        return spent + (self.client.charges(self.sampling, round_, cohort) if self.client else [])

    def clip_norms(self) -> dict[Unit, float]:
        """The clip norms that a run starts with."""
        return {plan.unit: plan.clip_norm for plan in self.units}


def adaptive(plan: ExamplePlan | ClientPlan | None) -> AdaptiveClip | None:
    """The plan's adaptive clipping, if it has one."""
    return plan.clipping if plan is not None and isinstance(plan.clipping, AdaptiveClip) else None
