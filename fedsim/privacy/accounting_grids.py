"""A one-step loss distribution on a grid, its log moments, and its tilted characteristic function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CHAINS = 8
_TILTS: Floats = np.exp2(np.arange(-10, 20, 1 / _CHAINS))  # fine: log moments of a sub-sampled step have a kink
_NEGLIGIBLE = 1e-150  # smaller weights are left out: their squares are subnormal, which is slow


@dataclass(frozen=True, eq=False)
class Grid:
    """A one-step loss distribution: ``masses`` at the multiples of ``interval`` from ``first`` on, and at infinity."""

    first: int
    masses: Floats
    infinity: float
    interval: float
    log_moments: Floats

    @classmethod
    def of(cls, first: int, masses: Floats, infinity: float, interval: float) -> Grid:
        """A grid with its log moments."""
        return cls(first, masses, infinity, interval, _log_moments(first, masses, interval))

    @property
    def last(self) -> int:
        """The number of the largest finite loss."""
        return self.first + len(self.masses) - 1


def _log_moments(first: int, masses: Floats, interval: float) -> Floats:
    """log E exp(theta loss) for theta in _TILTS, by squaring weights (an exp for each tilt would dominate the cost)."""
    below = -interval * np.arange(len(masses) - 1, -1, -1, dtype=np.float64)
    top = (first + len(masses) - 1) * interval
    moments: Floats = np.empty_like(_TILTS)
    for chain in range(_CHAINS):
        weights, kept = np.exp(_TILTS[chain] * below), masses
        for i in range(chain, len(_TILTS), _CHAINS):
            start = int(np.searchsorted(weights, _NEGLIGIBLE))
            weights, kept = weights[start:], kept[start:]
            moments[i] = _TILTS[i] * top + math.log(kept @ weights)
            weights = weights * weights
    return moments


@dataclass(frozen=True, eq=False)
class _Spectrum:
    """A tilted step's characteristic function about its ``centre``: logarithms of its sizes, and its phases.

    The error of a frequency of k turns is a few roundings of the lesser of ``norm`` and ``slope`` k.
    """

    sizes: Floats
    phases: Floats
    log_total: float
    centre: int
    norm: float
    slope: float


@lru_cache(maxsize=16)
def _log_spectrum(grid: Grid, tilt: float, points: int) -> _Spectrum:
    """Transform a tilted step so that the logarithm of a low frequency, which counts multiply, is precise.

    One minus the transform of a density is that of its tails times a factor that vanishes with the frequency (summation
    by parts), so taking it from the tails leaves an error that vanishes too. It is used below where it is the smaller.
    """
    below = grid.interval * tilt * np.arange(1 - len(grid.masses), 1)
    start = int(np.searchsorted(below, math.log(_NEGLIGIBLE)))
    weights = grid.masses[start:] * np.exp(below[start:])
    total = float(weights.sum())
    weights /= total
    index = np.arange(grid.first + start, grid.last + 1)
    centre = round(float((weights * index).sum()))
    index -= centre
    above = np.append(np.cumsum(weights[::-1])[-2::-1], 0.0)
    tails = np.where(index >= 0, above, -np.cumsum(weights))
    norm, slope = _norm(weights), 2 * math.pi / points * _norm(tails)
    index %= points
    spectrum = np.fft.rfft(np.bincount(index, weights=weights, minlength=points))
    sizes, phases = np.log(np.maximum(np.abs(spectrum), _NEGLIGIBLE)), np.angle(spectrum)
    low = min(len(spectrum), 1 + int(norm / slope)) if slope > 0 else len(spectrum)
    turns = np.expm1(-2j * math.pi / points * np.arange(low))
    change = turns * np.fft.rfft(np.bincount(index, weights=tails, minlength=points))[:low]
    near = np.abs(change) < 0.5
    np.log1p(2 * change.real + np.abs(change) ** 2, out=sizes[:low], where=near)
    np.divide(sizes[:low], 2, out=sizes[:low], where=near)
    np.arctan2(change.imag, 1 + change.real, out=phases[:low], where=near)
    return _Spectrum(sizes, phases, math.log(total) + tilt * grid.interval * grid.last, centre, norm, slope)


def _norm(values: Floats) -> float:
    return math.sqrt(float((values * values).sum()))
