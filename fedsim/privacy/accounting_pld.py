"""Privacy loss distributions: the profile of one step in closed form, on a grid that is fine enough for the answer.

The one-step distribution is the pessimistic "connect the dots" of Doroshenko et al. 2022 (arXiv 2207.04380), as in
dp-accounting, which the tests compare with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedsim.privacy.accounting_compose import composed_epsilon
from fedsim.privacy.accounting_grids import Grid
from fedsim.privacy.accounting_profiles import Direction, loss_range, profile

Floats = npt.NDArray[np.float64]

_STEP_POINTS = 1 << 19  # the largest one-step grid: 4 MB
_LARGEST_INTERVAL = 512.0  # beyond it its exponential overflows
_SMALLEST_SCALE = 2e-4  # below it the error is up to about 3e-5 absolute; a finer interval would drown in rounding


@dataclass(frozen=True, order=True)
class Mechanism:
    """One step: which pair of distributions, its shift in standard deviations of the noise, its sampling rate."""

    kind: Literal["gaussian", "poisson", "replace", "fixed"]
    shift: float
    rate: float

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The ordered pairs to compose; one where the profile is symmetric."""
        if self.kind == "poisson":
            return ("remove", "add")
        return ("remove",) if self.kind == "gaussian" else (self.kind,)


Steps = tuple[tuple[Mechanism, int], ...]


@lru_cache(maxsize=64)
def _one_step(mechanism: Mechanism, direction: Direction, interval: float) -> Grid:
    """Discretise one step so that its privacy profile is exact at the grid points and too large in between."""
    low, high = loss_range(direction, mechanism.shift, mechanism.rate)
    first, last = math.floor(low / interval), max(math.ceil(high / interval), math.floor(low / interval) + 1)
    losses: Floats = np.arange(first, last + 1, dtype=np.float64) * interval
    deltas = np.minimum.accumulate(np.clip(profile(direction, losses, mechanism.shift, mechanism.rate), 0.0, 1.0))
    steps, growth = np.diff(deltas), math.expm1(interval)
    masses = np.empty_like(deltas)
    masses[0] = 1 - deltas[0] + steps[0] / growth
    masses[1:-1] = np.diff(steps) / growth - steps[:-1]  # as steps * exp(interval) would lose digits
    masses[-1] = steps[-1] / math.expm1(-interval)
    masses = np.maximum(masses, 0.0)
    masses = masses[: int(np.flatnonzero(masses)[-1]) + 1]
    return Grid.of(first, masses, float(deltas[-1]), interval)


def _at_interval(steps: Steps, delta: float, interval: float) -> float | None:
    """Epsilon over both directions at one discretisation; None where that is too fine to afford."""
    for mechanism, _ in steps:
        ranges = (loss_range(way, mechanism.shift, mechanism.rate) for way in mechanism.directions)
        if max(high - low for low, high in ranges) / interval > _STEP_POINTS:
            return None
    counts = [count for _, count in steps]
    worst = 0.0
    for way in range(max(len(mechanism.directions) for mechanism, _ in steps)):
        grids = [_one_step(one, one.directions[way % len(one.directions)], interval) for one, _ in steps]
        value = composed_epsilon(grids, counts, delta, floor=worst)
        if value is None:
            return None
        worst = value
    return worst


def _interval(epsilon: float, count: int) -> float:
    """The loss interval that keeps the error below 2e-4 of epsilon, a power of two so that counts share one-step grids.

    Connecting the dots adds at most interval^2 / 4 to the variance of each step, which costs about
    2 count interval^2 / epsilon when epsilon is small and count interval^2 / 8 when it is large.
    """
    return float(2.0 ** math.floor(math.log2(7e-3 * math.sqrt(epsilon * min(max(epsilon, 0.01), 1.0) / count))))


def pld_epsilon(steps: Steps, delta: float, guess: float, coarseness: float = 1.0) -> float:
    """Upper bound on epsilon of a composition of steps of one relation; infinity where only a vast one could be found.

    ``guess`` (finite) only chooses the first loss interval: the result owes nothing to it, so that the accountant that
    made the guess remains an independent check. ``coarseness`` widens the interval: the error grows with its square,
    the cost shrinks in proportion.
    """
    count, scale, interval = sum(count for _, count in steps), max(guess, _SMALLEST_SCALE), math.inf
    value: float | None = None
    while value is None or (_SMALLEST_SCALE < value < 0.6 * scale):
        # A guess far too large chose an interval far too wide: refine with the better value.
        scale = scale if value is None else value
        wanted = min(coarseness * _interval(scale, count), _LARGEST_INTERVAL)
        if value is not None and wanted >= interval:
            break
        interval, value = wanted, _at_interval(steps, delta, wanted)
        while value is None:
            interval *= 2
            value = _at_interval(steps, delta, interval) if interval <= _LARGEST_INTERVAL else math.inf
    return value
