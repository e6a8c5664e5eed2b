"""Privacy loss distributions: one-step profiles in closed form, composed by an exponentially tilted FFT.

The one-step distribution is the pessimistic "connect the dots" of Doroshenko et al. 2022 (arXiv 2207.04380), as in
dp-accounting, which the tests compare with. Composing is done here because dp-accounting's plain FFT has an absolute
error near 1e-12: at 20000 steps and delta 1e-12 it reports 0.2 % too little. Tilting each loss density by exp(theta l)
(the saddle point of Alghamdi et al. 2022, arXiv 2208.09595) makes the FFT's error relative to delta, and the window
that must be transformed small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedsim.privacy.accounting_profiles import Direction, loss_range, profile

Floats = npt.NDArray[np.float64]

_CHAINS = 8
_TILTS: Floats = np.exp2(np.arange(-10, 20, 1 / _CHAINS))  # fine: log moments of a sub-sampled step have a kink
_WINDOW_MASS = 1e-10  # tilted mass that may fall outside the window; it is counted, never dropped
_STEP_POINTS, _WINDOW_POINTS = 1 << 19, 1 << 22  # largest grids: 4 MB a step, about 200 MB while composing
_NEGLIGIBLE = 1e-150  # smaller weights are left out: their squares are subnormal, which is slow
_SMALLEST_SCALE = 2e-4  # below it the error is up to about 3e-5 absolute; a finer interval would drown in rounding
_DELTA_SLACK = 1e-7  # relative to delta: what is given away for rounding (below 1e-9) and for a shorter tail


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


@dataclass(frozen=True, eq=False)
class _Grid:
    """A one-step loss distribution on multiples of ``interval``, with its log moments at ``_TILTS``."""

    first: int
    masses: Floats
    infinity: float
    interval: float
    log_moments: Floats


def _log_moments(masses: Floats, top: float, interval: float) -> Floats:
    """log E exp(theta loss) for theta in _TILTS, by squaring weights (an exp for each tilt would dominate the cost)."""
    below = -interval * np.arange(len(masses) - 1, -1, -1, dtype=np.float64)
    moments: Floats = np.empty_like(_TILTS)
    for chain in range(_CHAINS):
        weights, kept = np.exp(_TILTS[chain] * below), masses
        for i in range(chain, len(_TILTS), _CHAINS):
            start = int(np.searchsorted(weights, _NEGLIGIBLE))
            weights, kept = weights[start:], kept[start:]
            moments[i] = _TILTS[i] * top + math.log(kept @ weights)
            weights = weights * weights
    return moments


@lru_cache(maxsize=64)
def _one_step(mechanism: Mechanism, direction: Direction, interval: float) -> _Grid:
    """Discretise one step so that its privacy profile is exact at the grid points and too large in between."""
    low, high = loss_range(direction, mechanism.shift, mechanism.rate)
    first, last = math.floor(low / interval), max(math.ceil(high / interval), math.floor(low / interval) + 1)
    losses: Floats = np.arange(first, last + 1, dtype=np.float64) * interval
    deltas = np.minimum.accumulate(np.clip(profile(direction, losses, mechanism.shift, mechanism.rate), 0.0, 1.0))
    steps, growth = np.diff(deltas), math.expm1(interval)
    masses = np.empty_like(deltas)
    masses[0] = 1 - deltas[0] + steps[0] / growth
    masses[1:-1] = (steps[1:] - steps[:-1] * math.exp(interval)) / growth
    masses[-1] = steps[-1] / math.expm1(-interval)
    masses = np.maximum(masses, 0.0)
    masses = masses[: int(np.flatnonzero(masses)[-1]) + 1]
    top = (first + len(masses) - 1) * interval
    return _Grid(first, masses, float(deltas[-1]), interval, _log_moments(masses, top, interval))


def _window(
    grids: Sequence[_Grid], counts: Sequence[int], delta: float, from_zero: bool
) -> tuple[float, float, float, bool]:
    """Choose the tilt, and bound where all but _WINDOW_MASS of the tilted sum lies (Chernoff on either side).

    Returns the tilt, the lowest and the highest loss of the window, and whether no loss lies above it.
    """
    pairs = list(zip(grids, counts, strict=True))
    totals = sum((count * grid.log_moments for grid, count in pairs), np.zeros_like(_TILTS))
    bounds = (totals - math.log(delta)) / _TILTS
    chosen = 0 if from_zero else int(np.argmin(bounds))
    tilt, moment, slack = _TILTS[chosen], totals[chosen], -math.log(_WINDOW_MASS)
    tilts, moments = np.append(0.0, _TILTS), np.append(0.0, totals)
    above, below = tilts > tilt, tilts < tilt
    low = np.max((moment - moments[below] - slack) / (tilt - tilts[below]))
    high = np.min((moments[above] - moment + slack) / (tilts[above] - tilt), initial=math.inf)
    high = max(float(high), float(bounds[chosen]))  # beyond the Chernoff bound, what is missed weighs little in delta
    least = sum(count * grid.first * grid.interval for grid, count in pairs)
    most = sum(count * (grid.first + len(grid.masses) - 1) * grid.interval for grid, count in pairs)
    return float(tilt), max(float(low), least), min(high, most), high >= most


def _tilted_sum(grids: Sequence[_Grid], counts: Sequence[int], tilt: float, points: int) -> tuple[Floats, float]:
    """The tilted density of the summed loss, wrapped modulo ``points``, and the log of its normaliser."""
    spectrum, log_total = np.ones(points // 2 + 1, dtype=np.complex128), 0.0
    for grid, count in zip(grids, counts, strict=True):
        below = grid.interval * tilt * np.arange(1 - len(grid.masses), 1)
        start = int(np.searchsorted(below, math.log(_NEGLIGIBLE)))
        index = np.arange(grid.first + start, grid.first + len(grid.masses))
        weights = grid.masses[start:] * np.exp(below[start:])
        total = float(weights.sum())
        log_total += count * (math.log(total) + tilt * grid.interval * float(index[-1]))
        wrapped = np.bincount(index % points, weights=weights / total, minlength=points)
        spectrum *= np.fft.rfft(wrapped) ** count
    return np.maximum(np.fft.irfft(spectrum, points), 0.0), log_total


def _smallest_epsilon(losses: Floats, masses: Floats, delta: float) -> float:
    """Solve sum masses (1 - exp(epsilon - loss))+ = delta for epsilon at or above the first loss."""
    tail = np.cumsum(masses[::-1])[::-1]
    end = max(1, int(np.searchsorted(-tail, -_DELTA_SLACK * delta)))
    delta -= float(tail[end]) if end < len(tail) else 0.0  # so little mass, counted as an infinite loss: it is faster

    def excess(index: int) -> float:
        return float(-np.expm1(losses[index] - losses[index:end]) @ masses[index:end]) - delta

    low, high = -1, min(int(np.searchsorted(-tail, -delta)), end - 1)  # excess(high) <= 0: delta exceeds no tail mass
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    if low < 0:
        return float(losses[0])
    above = float(masses[high:end].sum())
    scaled = float(np.exp(losses[low] - losses[high:end]) @ masses[high:end])
    return float(losses[low]) + math.log((above - delta) / scaled)


def _compose(grids: Sequence[_Grid], counts: Sequence[int], delta: float, from_zero: bool = False) -> float | None:
    """Epsilon of one direction; None where the window would need too many points at this interval."""
    from scipy.fft import next_fast_len

    interval = grids[0].interval
    tilt, low, high, complete = _window(grids, counts, delta, from_zero)
    low = min(low, 0.0) if from_zero else low
    if (high - low) / interval > _WINDOW_POINTS - 4:
        return None
    start = math.floor(low / interval) - 1
    points = next_fast_len(math.ceil(high / interval) + 2 - start, real=True)
    density, log_total = _tilted_sum(grids, counts, tilt, points)
    first = max(start, 0)  # a negative loss cannot be the answer
    losses = np.arange(first, start + points) * interval
    if not len(losses):
        return 0.0
    density = np.roll(density, -(start % points))[first - start :]
    masses = density * np.exp(np.minimum(log_total - tilt * losses, 700.0))
    missed = sum(count * grid.infinity for grid, count in zip(grids, counts, strict=True))
    if not complete:  # what lies above the window has at most this much untilted mass: it counts as an infinite loss
        missed += _WINDOW_MASS * math.exp(min(log_total - tilt * float(losses[-1]), 0.0))
    target = delta * (1 - _DELTA_SLACK) - missed
    value = math.inf if target <= 0 else max(0.0, _smallest_epsilon(losses, masses, target))
    if 0 < value <= losses[0] and not from_zero:  # below the window, which the tilt put too high: hardly tilt at all
        return _compose(grids, counts, delta, from_zero=True)
    return value


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
        value = _compose(grids, counts, delta)
        if value is None:
            return None
        worst = max(worst, value)
    return worst


def _interval(epsilon: float, count: int) -> float:
    """The loss interval that keeps the error below 2e-4 of epsilon, a power of two so that counts share one-step grids.

    Connecting the dots adds at most interval^2 / 4 to the variance of each step, which costs about
    2 count interval^2 / epsilon when epsilon is small and count interval^2 / 8 when it is large.
    """
    return float(2.0 ** math.floor(math.log2(7e-3 * math.sqrt(epsilon * min(max(epsilon, 0.01), 1.0) / count))))


def pld_epsilon(steps: Steps, delta: float, guess: float, coarseness: float = 1.0) -> float:
    """Upper bound on epsilon of a composition of steps of one relation.

    ``guess`` (finite) only chooses the first loss interval: the result owes nothing to it, so that the accountant that
    made the guess remains an independent check. ``coarseness`` widens the interval: the error grows with its square,
    the cost shrinks in proportion.
    """
    count, scale, interval = sum(count for _, count in steps), max(guess, _SMALLEST_SCALE), math.inf
    value: float | None = None
    while value is None or (_SMALLEST_SCALE < value < 0.6 * scale):
        # A guess far too large chose an interval far too wide: refine with the better value.
        scale = scale if value is None else value
        wanted = coarseness * _interval(scale, count)
        if value is not None and wanted >= interval:
            break
        interval, value = wanted, _at_interval(steps, delta, wanted)
        while value is None:
            interval *= 2
            value = _at_interval(steps, delta, interval)
    return value
