"""Privacy profiles delta(epsilon) of one step of the sub-sampled Gaussian mechanism, in closed form."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Direction = Literal["remove", "add", "replace", "fixed"]

_TOP, _BOTTOM = 10.0, 7.0  # standard deviations kept: 8e-24 becomes an infinite loss, 1e-12 a slightly larger one


def _gaussian(losses: Floats, shift: float) -> Floats:
    """Hockey-stick divergence of N(shift, 1) from N(0, 1) (Balle and Wang 2018, arXiv 1805.06530)."""
    from scipy.special import log_ndtr, ndtr

    above = ndtr(shift / 2 - losses / shift)
    return np.asarray(above - np.exp(losses + log_ndtr(-shift / 2 - losses / shift)), dtype=np.float64)


def _unsampled(losses: Floats, rate: float) -> Floats:
    """log((exp(loss) - 1 + rate) / rate), -inf where that has no logarithm: the loss before sub-sampling."""
    with np.errstate(divide="ignore", invalid="ignore"):
        small = np.log1p(np.expm1(np.minimum(losses, 1.0)) / rate)
        large = losses - math.log(rate) + np.log1p(-(1 - rate) * np.exp(-np.maximum(losses, 0.5)))
    return np.where(losses > 1.0, large, np.where(losses > _floor(rate), small, -np.inf))


def _floor(rate: float) -> float:
    """The loss that sub-sampling cannot go below when a unit is removed."""
    return math.log1p(-rate) if rate < 1 else -math.inf


def _remove(losses: Floats, shift: float, rate: float) -> Floats:
    """(1-rate) N(0, 1) + rate N(shift, 1) from N(0, 1): a unit is removed."""
    inner = _unsampled(losses, rate)
    finite = np.isfinite(inner)
    deltas = -np.expm1(np.minimum(losses, 0.0))
    deltas[finite] = rate * _gaussian(inner[finite], shift)
    return deltas


def _add(losses: Floats, shift: float, rate: float) -> Floats:
    """N(0, 1) from (1-rate) N(0, 1) + rate N(shift, 1): a unit is added; written so that no tail cancels."""
    inner = _unsampled(-losses, rate)
    finite = np.isfinite(inner)
    kept = losses[finite]
    deltas = np.zeros_like(losses)
    positive = np.exp(inner[finite] + kept + math.log(rate)) * _gaussian(-inner[finite], shift)
    negative = -np.expm1(kept) + rate * np.exp(kept) * _gaussian(inner[finite], shift)
    deltas[finite] = np.where(kept > 0, positive, negative)
    return deltas


def _replace(losses: Floats, shift: float, rate: float) -> Floats:
    """(1-rate) N(0, 1) + rate N(shift, 1) from (1-rate) N(0, 1) + rate N(-shift, 1): a unit is replaced."""
    from scipy.special import log_ndtr, ndtr

    log_ratio = math.log(rate) - math.log1p(-rate) - shift**2 / 2
    with np.errstate(divide="ignore"):
        half = np.abs(losses) / 2
        log_sinh = half + np.log(-np.expm1(-2 * half)) - math.log(2) - log_ratio
    arc = np.logaddexp(log_sinh, 0.5 * np.logaddexp(0.0, 2 * log_sinh))  # asinh of exp(log_sinh)
    edge = (losses / 2 + np.sign(losses) * arc) / shift
    upper = (1 - rate) * ndtr(-edge) + rate * ndtr(shift - edge)
    log_lower = np.logaddexp(math.log1p(-rate) + log_ndtr(-edge), math.log(rate) + log_ndtr(-shift - edge))
    return np.asarray(upper - np.exp(losses + log_lower), dtype=np.float64)


def _fixed(losses: Floats, shift: float, rate: float) -> Floats:
    """A unit is replaced under sampling without replacement.

    For epsilon >= 0 this is amplification by sub-sampling (Balle, Barthe and Gaboardi 2018, arXiv 1807.01647, theorem
    9) of the Gaussian at distance 2 shift; replacing is symmetric, so the mirrored profile bounds epsilon < 0, and a
    step that is bounded by a profile everywhere may be composed through it (Zhu, Dong and Wang 2022, arXiv 2106.08567).
    """
    bound = _remove(np.abs(losses), 2 * shift, rate)
    mirrored = np.minimum(losses, 0.0)
    return np.where(losses >= 0, bound, -np.expm1(mirrored) + np.exp(mirrored) * bound)


def profile(direction: Direction, losses: Floats, shift: float, rate: float) -> Floats:
    """delta at each epsilon in ``losses`` for one step; ``shift`` is 1 / noise_multiplier, ``rate`` is in (0, 1)."""
    functions = {"remove": _remove, "add": _add, "replace": _replace, "fixed": _fixed}
    return functions[direction](losses, shift, rate)


def _sampled(loss: float, rate: float) -> float:
    """log(1 - rate + rate exp(loss)): the loss after sub-sampling."""
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) + loss)) if rate < 1 else loss


def loss_range(direction: Direction, shift: float, rate: float) -> tuple[float, float]:
    """The losses to keep: what is above counts as infinite, what is below as the smallest (both pessimistic)."""
    if direction == "remove":
        return _sampled(-(shift**2) / 2 - _BOTTOM * shift, rate), _sampled(shift**2 / 2 + _TOP * shift, rate)
    if direction == "add":
        return -_sampled(-(shift**2) / 2 + _BOTTOM * shift, rate), -_sampled(-(shift**2) / 2 - _TOP * shift, rate)
    if direction == "fixed":
        top = _sampled(2 * shift**2 + _TOP * 2 * shift, rate)
        return -top, top
    top = _sampled(shift**2 / 2 + _TOP * shift, rate) - _sampled(-1.5 * shift**2 - _TOP * shift, rate)
    return -top, top
