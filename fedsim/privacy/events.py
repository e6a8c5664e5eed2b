"""What the ledger holds: invocations of the (sub-sampled) Gaussian mechanism."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Sampling = Literal["poisson", "fixed", "none"]
Relation = Literal["add-remove", "replace-one", "zero-out"]


@dataclass(frozen=True, order=True)
class Event:
    """One release of a noised sum: how the units were sampled and how much noise was added.

    ``noise_multiplier`` is the noise's standard deviation divided by the clip norm, so the sensitivity is 1 when a
    unit is added or removed (or zeroed out) and 2 when it is replaced. ``rate`` is the probability that a unit takes
    part (Poisson), or cohort / population (fixed size); it is 1 where every unit takes part or where no amplification
    is claimed. ``sampling`` says which of these it was.
    """

    noise_multiplier: float
    rate: float = 1.0
    sampling: Sampling = "none"
    relation: Relation = "add-remove"

    def __post_init__(self) -> None:
        if not self.noise_multiplier >= 0:
            raise ValueError(f"noise_multiplier must be >= 0, got {self.noise_multiplier}")
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must be in [0, 1], got {self.rate}")
        if self.sampling == "none" and self.rate != 1:
            raise ValueError(f"without sampling the rate is 1, got {self.rate}")


Composition = tuple[tuple[Event, int], ...]
"""Events with their counts: sorted, merged, without zero counts; the empty tuple is "nothing was released"."""


def compose(parts: Iterable[tuple[Event, int]]) -> Composition:
    """Merge events with counts into the canonical composition (order does not matter for the guarantee)."""
    totals: Counter[Event] = Counter()
    for event, count in parts:
        if count < 0:
            raise ValueError(f"an event cannot happen {count} times")
        totals[event] += count
    return tuple(sorted((event, count) for event, count in totals.items() if count))
