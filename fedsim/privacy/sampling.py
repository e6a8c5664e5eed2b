"""Cohort sampling: how the clients of a round are drawn, and what the accountant may claim for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.privacy.events import Event
from fedsim.settings import Count, section

Ids = NDArray[np.int64]


@section
@dataclass(frozen=True)
class Poisson:
    """Every client takes part independently with probability ``rate``, which is public; the draw is private."""

    kind: Literal["poisson"] = "poisson"
    rate: Annotated[float, Field(gt=0, le=1)] = 0.1

    def draw(self, clients: int, rng: np.random.Generator) -> Ids:
        """Ids of the round's clients, ascending; O(cohort): a binomial size, then that many without replacement."""
        size = int(rng.binomial(clients, self.rate))
        return np.sort(rng.choice(clients, size, replace=False)).astype(np.int64)

    def participation(self, clients: int) -> float:
        """Probability that a client takes part in a round."""
        return self.rate

    def event(self, noise_multiplier: float) -> Event:
        """A noised sum over the cohort: amplified by Poisson sampling, under adding or removing a client."""
        return Event(noise_multiplier, self.rate, "poisson", "add-remove")


@section
@dataclass(frozen=True)
class Fixed:
    """Exactly ``size`` clients a round, drawn without replacement."""

    kind: Literal["fixed"] = "fixed"
    size: Count = 10

    def draw(self, clients: int, rng: np.random.Generator) -> Ids:
        """Ids of the round's clients, ascending."""
        return np.sort(rng.choice(clients, self.size, replace=False)).astype(np.int64)

    def participation(self, clients: int) -> float:
        """Probability that a client takes part in a round."""
        return self.size / clients

    def event(self, noise_multiplier: float) -> Event:
        """A noised sum over the cohort: no amplification, under replacing a client's update by zero."""
        return Event(noise_multiplier, 1.0, "none", "zero-out")


@section
@dataclass(frozen=True)
class All:
    """Every client takes part in every round."""

    kind: Literal["all"] = "all"

    def draw(self, clients: int, rng: np.random.Generator) -> Ids:
        """All ids."""
        return np.arange(clients, dtype=np.int64)

    def participation(self, clients: int) -> float:
        """Always 1."""
        return 1.0

    def event(self, noise_multiplier: float) -> Event:
        """A noised sum over all clients."""
        return Event(noise_multiplier)


CohortSampling = Poisson | Fixed | All
SAMPLINGS = {"poisson": Poisson, "fixed": Fixed, "all": All}
