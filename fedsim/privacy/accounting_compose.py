"""The sum of many independent privacy losses: tilted, wrapped onto a small window, and solved for epsilon.

Composing is done here because dp-accounting's plain FFT has an absolute error near 1e-12: at 20000 steps and delta
1e-12 it reports 0.2 % too little. Tilting each loss density by exp(theta l) (the saddle point of Alghamdi et al. 2022,
arXiv 2208.09595) makes the error relative to delta, and the window that must be transformed small.

A run asks for epsilon after every round, with a few more steps of the same kinds each time. So windows and tilts come
in few sizes, and the characteristic function of a step is kept: one more step is one more multiple of its logarithm.
What the answer hangs on is never summed by BLAS, whose order, and so the last bit, changes with the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsim.privacy.accounting_grids import _CHAINS, _TILTS, Floats, Grid, _log_spectrum

_EXCESS: Floats = _TILTS * np.log(_TILTS) - (1 + _TILTS) * np.log1p(_TILTS)  # log max (1 - exp(-x)) exp(-tilt x)
_WINDOW_MASS = 1e-10  # tilted mass that may fall outside the window; it is counted, never dropped
_LOST = 10.0  # a smaller window may cost a factor of exp(_LOST) in accuracy, of the 1e9 or more that there are to spare
_WINDOW_POINTS = 1 << 22  # the largest window: about 200 MB while composing
_KEPT_POINTS = 1 << 20  # the largest window whose spectra are kept, 8 MB each
_FAINTEST = -60.0  # logarithm of the smallest frequency that is not left out; rounding is at -36
_FEW = 1 / 32  # a share of frequencies below which they are summed one by one, which is quicker than an FFT
_ROUNDING = 2e-15  # of a frequency of one step over the norm of what is transformed; the RMS found is up to 1.4e-15
_CLEAR = 22.0  # log of how many times its tilted mass over delta a mass may be for its tails to be summed by frequency
_UNCLEAR = 1e-3  # a share of delta: where rounding may be more, a tilt nearer to epsilon is tried
_DELTA_SLACK = 1e-7  # relative to delta: what is given away for rounding (below 1e-9) and for a shorter tail


@dataclass(frozen=True)
class _Window:
    """A tilt, the losses between which the tilted sum lies, and the log of the tilted mass that may lie outside."""

    tilt: float
    low: float
    high: float
    outside: float


def _window(totals: Floats, edges: Floats, delta: float, at: int | None) -> _Window:
    """Choose the tilt, and bound where all but a negligible part of the tilted sum lies (Chernoff on either side).

    The tilt with the smallest bound on epsilon is the most accurate one. But half of it, or less, often makes the
    window far smaller: when steps sample rarely, the tilted sum has a second hump far out. So of the powers of two
    below it that lose at most _LOST to it, the one with the smallest window is taken, with less mass left outside.
    ``totals`` are log moments, ``edges`` the smallest and the largest loss. ``at`` is the number of a tilt to take;
    that of the least puts the window's start at zero or below.
    """
    bounds = (totals - math.log(delta)) / _TILTS
    best = float(bounds.min())
    octaves = np.arange(0, int(np.argmin(bounds)) + 1, _CHAINS) if at is None else np.array([at])
    lost = _TILTS[octaves] * (bounds[octaves] - best)
    fit = lost <= max(_LOST, lost[-1])
    octaves, outside = octaves[fit], math.log(_WINDOW_MASS) - lost[fit]
    apart = np.append(0.0, _TILTS) - _TILTS[octaves, None]
    slopes = np.append(0.0, totals) - totals[octaves, None] - outside[:, None]
    np.divide(slopes, apart, out=slopes, where=apart != 0)
    lows = np.max(slopes, axis=1, initial=edges[0], where=apart < 0)
    highs = np.min(slopes, axis=1, initial=math.inf, where=apart > 0)
    highs = np.minimum(np.maximum(highs, best), edges[1])  # above the bound, what is missed weighs little in delta
    chosen = int(np.argmin(highs - lows))
    low = min(float(lows[chosen]), 0.0) if at == 0 else float(lows[chosen])
    return _Window(float(_TILTS[octaves[chosen]]), low, float(highs[chosen]), float(outside[chosen]))


def _length(points: int) -> int:
    """The length of a quick FFT that is at least ``points``: one of four in every power of two."""
    unit = 1 << max(0, points.bit_length() - 3)
    return unit * -(-points // unit)


@dataclass(frozen=True)
class _Sum:
    """The tilted density of a sum of losses as its lower frequencies; ``start`` is the number of its first loss."""

    spectrum: npt.NDArray[np.complex128]
    points: int
    start: int
    interval: float
    tilt: float
    log_total: float
    rounding: float  # of the tails at a loss, at most, in units of its ``untilted``; it is added

    @classmethod
    def of(cls, grids: Sequence[Grid], counts: Sequence[int], window: _Window) -> _Sum:
        """Sum ``counts`` losses of each grid; what lies outside the window is wrapped into it."""
        interval = grids[0].interval
        start = math.floor(window.low / interval) - 1
        points = _length(math.ceil(window.high / interval) + 2 - start)
        log_spectrum = _log_spectrum if points <= _KEPT_POINTS else _log_spectrum.__wrapped__
        kept, log_total, centre = points // 2 + 1, 0.0, 0
        noises: list[tuple[int, float, float]] = []
        sizes: Floats = np.zeros(1)
        phases: Floats = np.zeros(1)
        for grid, count in zip(grids, counts, strict=True):
            part = log_spectrum(grid, window.tilt, points)
            sizes = count * part.sizes[:kept] + (sizes[:kept] if noises else 0.0)
            kept = int(np.flatnonzero(sizes > _FAINTEST)[-1]) + 1  # few, as a sum of many losses has a smooth density
            phases = count * part.phases[:kept] + (phases[:kept] if noises else 0.0)
            noises.append((count, part.norm, part.slope))
            log_total, centre = log_total + count * part.log_total, centre + count * part.centre
        turns = np.arange(kept)
        errors = sum((count * np.minimum(norm, slope * turns) for count, norm, slope in noises), np.zeros(kept))
        phases -= 2 * math.pi / points * (turns * (centre % points) % points)
        sizes = np.exp(sizes[:kept])
        spectrum = sizes * (np.cos(phases) + 1j * np.sin(phases))
        rounding = _rounding(sizes, errors, points, interval * window.tilt, interval)
        return cls(spectrum, points, start, interval, window.tilt, log_total, rounding)

    @property
    def first(self) -> int:
        """The number of the first loss that can be epsilon, which is not negative."""
        return max(self.start, 0)

    @property
    def last(self) -> int:
        """The number of the last loss."""
        return self.start + self.points - 1

    def epsilon(self, delta: float) -> float:
        """Solve sum masses (1 - exp(epsilon - loss))+ = delta for epsilon at or above the first loss."""
        if len(self.spectrum) <= _FEW * self.points:
            clear = math.ceil((self.log_total - math.log(delta) - _CLEAR) / (self.tilt * self.interval))
            found = self._root(_series(self), delta, max(self.first, clear))
            if found is not None:
                return found
        found = self._root(_masses(self, delta), delta, self.first)
        return self.first * self.interval if found is None else found

    def _root(self, tails: Tails, delta: float, first: int) -> float | None:
        """Epsilon, by bisection; None if it is below the loss of number ``first``."""

        def excess(loss: int) -> float:
            return tails(loss)[0] + self.rounding * self.untilted(loss) - delta

        low, high = first - 1, self.last  # the excess is positive at low, and not at high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if excess(middle) > 0 else (low, middle)
        if low < first:
            return None
        scaled = tails(high)[1]
        share = excess(high) / scaled if scaled > 0 else -1.0  # too low where rounding made the excess positive at low
        return high * self.interval + max(math.log1p(share) if share > -1 else -math.inf, -self.interval)

    def untilted(self, loss: float) -> float:
        """How many times its tilted mass the mass of a loss is, given its number."""
        return math.exp(min(self.log_total - self.tilt * self.interval * loss, 700.0))


def _rounding(sizes: Floats, errors: Floats, points: int, tilt: float, interval: float) -> float:
    """A bound on what rounding adds to, or takes from, the tails of a sum at a loss, over the loss's ``untilted``.

    A frequency weighs 1 / (1 - exp(i turn - tilt)) in a sum of tilted masses, and less in that of masses times
    1 - exp(l - loss). ``errors`` are those that counts multiply; others, of the size of a sum, are made at the end.
    """
    turns = np.sin(math.pi / points * np.arange(len(sizes))) ** 2
    heavy = 2 / points / np.sqrt(math.expm1(-tilt) ** 2 + 4 * math.exp(-tilt) * turns)
    other = np.sqrt(math.expm1(-tilt - interval) ** 2 + 4 * math.exp(-tilt - interval) * turns)
    light = heavy * (math.exp(-tilt) * -math.expm1(-interval)) / other
    return _ROUNDING * float((sizes * heavy).sum() + (errors * light).sum())


Tails = Callable[[int], tuple[float, float]]
"""Of the number of a loss l: sum masses (1 - exp(l - loss)) and sum masses exp(l - loss), over the losses from l on."""


def _masses(total: _Sum, delta: float) -> Tails:
    """The tails by way of the density itself, one inverse FFT; rounding can only make them larger."""
    density = np.roll(np.fft.irfft(total.spectrum, total.points), -(total.start % total.points))
    first, losses = total.first, np.arange(total.first, total.last + 1) * total.interval
    masses = np.maximum(density[first - total.start :], 0.0)
    masses *= np.exp(np.minimum(total.log_total - total.tilt * losses, 700.0))
    tail = np.append(np.cumsum(masses[::-1])[::-1], 0.0)
    end = max(1, int(np.searchsorted(-tail, -_DELTA_SLACK * delta)))  # beyond it losses count as infinite: it is faster

    def tails(loss: int) -> tuple[float, float]:
        index = loss - first
        shares = np.expm1(losses[index] - losses[index:end])
        excess = float(tail[max(index, end)]) - float((shares * masses[index:end]).sum())
        return excess, float(((shares + 1) * masses[index:end]).sum())

    return tails


def _series(total: _Sum) -> Tails:
    """The tails frequency by frequency, where each is a geometric series up to the window's end."""
    tilts = total.interval * np.array([[total.tilt], [total.tilt + 1]])
    turns = 2j * math.pi / total.points * np.arange(len(total.spectrum))
    weights = total.spectrum * np.where(turns == 0, 1, 2) / (total.points * -np.expm1(turns - tilts))
    beyond = (weights * np.exp(turns * ((total.last + 1) % total.points))).sum(axis=1).real

    def tails(loss: int) -> tuple[float, float]:
        sums = (weights * np.exp(turns * (loss % total.points))).sum(axis=1).real
        sums -= beyond * np.exp((loss - total.last - 1) * tilts[:, 0])
        sums *= total.untilted(loss)
        return float(sums[0] - sums[1]), float(sums[1])

    return tails


def composed_epsilon(
    grids: Sequence[Grid], counts: Sequence[int], delta: float, floor: float = 0.0, at: int | None = None
) -> float | None:
    """Epsilon of the sum of ``counts`` losses of each grid, or ``floor`` where that is larger.

    None where the window would need too many points at the grids' interval. ``at`` is the number of a tilt to take.
    """
    interval, times = grids[0].interval, np.array(counts, np.float64)[:, None]
    target = delta * (1 - _DELTA_SLACK) - sum(count * grid.infinity for grid, count in zip(grids, counts, strict=True))
    if target <= 0:
        return math.inf
    totals = (times * [grid.log_moments for grid in grids]).sum(axis=0)
    if float(np.min((totals - math.log(target) + _EXCESS) / _TILTS)) <= floor:
        return floor
    edges = (times * [(grid.first, grid.last) for grid in grids]).sum(axis=0) * interval
    window = _window(totals, edges, delta, at)
    if (window.high - window.low) / interval > _WINDOW_POINTS - 4:
        return None
    total = _Sum.of(grids, counts, window)
    if total.last < 0:
        return floor
    if window.high < edges[1]:  # what lies above the window has at most this much untilted mass: it counts as infinite
        target -= math.exp(window.outside + total.log_total - window.tilt * total.last * interval)
    value = total.epsilon(target) if target > 0 else math.inf
    missed = value < window.low  # the tilt put the window too high
    if 0 < value < math.inf and (missed or total.rounding * total.untilted(value / interval) > _UNCLEAR * target):
        used = int(np.searchsorted(_TILTS, window.tilt))
        nearer = max(0, min(int(np.argmin(totals - _TILTS * value)), used - _CHAINS * missed))
        if nearer < used or (missed and at != 0):
            again = composed_epsilon(grids, counts, delta, floor, nearer)
            if missed or again is not None:
                return again if missed or again is None else min(max(value, floor), again)
    return max(value, floor)
