"""Cohort sampling: how the clients of a round are drawn, and what the accountant may claim for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.privacy.events import Event, Relation
from fedsim.settings import Count, section

Ids = NDArray[np.int64]
Rate = Annotated[float, Field(gt=0, le=1)]


@section
@dataclass(frozen=True)
class Poisson:
    """Every client takes part independently with probability ``rate``, which is public; the draw is private."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate = 0.1

    def draw(self, clients: int, round_: int, rng: np.random.Generator) -> Ids:
        """Ids of the round's clients, ascending; O(cohort): a binomial size, then that many without replacement."""
        size = int(rng.binomial(clients, self.rate))
        return np.sort(rng.choice(clients, size, replace=False)).astype(np.int64)

    def participation(self, clients: int) -> float:
        """Probability that a client takes part in a round."""
        return self.rate

    def times(self, rounds: int) -> int:
        """The largest number of rounds in which a client can be charged for a sum over the cohort."""
        return rounds

    def charged(self, clients: int, round_: int) -> Ids | None:
        """Who is charged for a sum over the cohort: everybody, because everybody might have been drawn."""
        return None

    def event(self, noise_multiplier: float, relation: Relation | None, clients: int) -> Event:
        """A noised sum over the cohort: amplified by Poisson sampling."""
        return Event(noise_multiplier, self.rate, "poisson", relation or "add-remove")


@section
@dataclass(frozen=True)
class Fixed:
    """Exactly ``size`` clients a round, drawn without replacement."""

    kind: Literal["fixed"] = "fixed"
    size: Count = 10

    def draw(self, clients: int, round_: int, rng: np.random.Generator) -> Ids:
        """Ids of the round's clients, ascending."""
        return np.sort(rng.choice(clients, self.size, replace=False)).astype(np.int64)

    def participation(self, clients: int) -> float:
        """Probability that a client takes part in a round."""
        return self.size / clients

    def times(self, rounds: int) -> int:
        """The largest number of rounds in which a client can be charged for a sum over the cohort."""
        return rounds

    def charged(self, clients: int, round_: int) -> Ids | None:
        """Who is charged for a sum over the cohort: everybody."""
        return None

    def event(self, noise_multiplier: float, relation: Relation | None, clients: int) -> Event:
        """Without amplification under zero-out; with that of sampling without replacement under replace-one."""
        if relation == "replace-one":
            return Event(noise_multiplier, self.size / clients, "fixed", "replace-one")
        return Event(noise_multiplier, 1.0, "none", "zero-out")


@section
@dataclass(frozen=True)
class All:
    """Every client takes part in every round."""

    kind: Literal["all"] = "all"

    def draw(self, clients: int, round_: int, rng: np.random.Generator) -> Ids:
        """All ids."""
        return np.arange(clients, dtype=np.int64)

    def participation(self, clients: int) -> float:
        """Always 1."""
        return 1.0

    def times(self, rounds: int) -> int:
        """The largest number of rounds in which a client can be charged for a sum over the cohort."""
        return rounds

    def charged(self, clients: int, round_: int) -> Ids | None:
        """Who is charged for a sum over the cohort: everybody."""
        return None

    def event(self, noise_multiplier: float, relation: Relation | None, clients: int) -> Event:
        """A noised sum over all clients."""
        return Event(noise_multiplier, 1.0, "none", relation or "add-remove")


@section
@dataclass(frozen=True)
class Cyclic:
    """Clients form ``groups`` that take turns; in its turn a client takes part with probability ``rate``.

    Two participations of a client are at least ``groups`` rounds apart, which is what correlated noise needs; with
    ``rate`` below 1 the draw amplifies (Choquette-Choo et al. 2023, arXiv 2306.08153).
    """

    kind: Literal["cyclic"] = "cyclic"
    groups: Count = 8
    rate: Rate = 1.0

    def draw(self, clients: int, round_: int, rng: np.random.Generator) -> Ids:
        """Ids of the round's clients, ascending: Poisson within the group whose turn it is."""
        group = self.charged(clients, round_)
        return group[rng.random(len(group)) < self.rate]

    def participation(self, clients: int) -> float:
        """Probability that a client takes part in a round, over all rounds."""
        return self.rate / self.groups

    def times(self, rounds: int) -> int:
        """The largest number of rounds in which a client can be charged for a sum over the cohort."""
        return -(-rounds // self.groups)

    def charged(self, clients: int, round_: int) -> Ids:
        """Who is charged for a sum over the cohort: the group whose turn it is, which is public."""
        return np.arange((round_ - 1) % self.groups, clients, self.groups, dtype=np.int64)

    def event(self, noise_multiplier: float, relation: Relation | None, clients: int) -> Event:
        """A noised sum over the cohort, for a client in its turn."""
        sampling: Literal["poisson", "none"] = "poisson" if self.rate < 1 else "none"
        return Event(noise_multiplier, self.rate, sampling, relation or "add-remove")


CohortSampling = Poisson | Fixed | All | Cyclic
SAMPLINGS = {
    "poisson": Poisson,  # Mironov et al. 2019, arXiv 1908.10530
    "fixed": Fixed,  # Wang et al. 2019, arXiv 1808.00087
    "all": All,
    "cyclic": Cyclic,  # Choquette-Choo et al. 2023, arXiv 2306.08153
}
