"""Renyi accounting: the cheap upper bound that filters rounds and cross-checks the reported number."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from fedsim.privacy.events import Composition, Event

Floats = npt.NDArray[np.float64]

_FRACTIONS = (1.05, 1.1, 1.2, 1.35, 1.5, 1.75)
_INTEGERS = (*range(2, 17), 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 1024)
ORDERS: Floats = np.array(_FRACTIONS + _INTEGERS)
_CONVERSION: Floats = np.log1p(-1 / ORDERS) - np.log(ORDERS) / (ORDERS - 1)

_LARGEST_NOISE = 1e7
_ROUNDING = 2e-15  # of the logarithm of a moment; it is added, which shows after many steps of hardly any loss
_LARGEST_EXPONENT = 2e4  # an order whose divergence exceeds this never gives the best epsilon


def sensitivity(event: Event) -> float:
    """Distance, in clip norms, by which one unit moves the sum: 2 when it is replaced, else 1."""
    return 2.0 if event.relation == "replace-one" else 1.0


def capped(event: Event) -> Event:
    """The event with no more noise than a double can account for (less noise is an upper bound)."""
    return event if event.noise_multiplier <= _LARGEST_NOISE else replace(event, noise_multiplier=_LARGEST_NOISE)


def _quadrature(event: Event, order: float) -> float:
    """Renyi divergence of one Poisson step by the trapezoid rule, whose error here is below 1e-12.

    This covers what dp-accounting cannot: fractional orders (its series stops converging) and replace-one. It agrees
    with dp-accounting at the others, ten times as fast.
    """
    shift, rate = 1 / event.noise_multiplier, event.rate
    if order * shift**2 > _LARGEST_EXPONENT:
        return math.inf
    # Replacing a unit can move the peak twice as far, and makes it sharp where the other side's two parts meet.
    replaced = event.relation == "replace-one"
    width = min(0.2 / max(1.0, shift), 0.8 / math.sqrt(1 + order * shift**2 / 4) if replaced else math.inf)
    y = np.arange(-12.0 - order * shift, 12.0 + (2 * order if replaced else order + 1) * shift, width)
    noise = -(y**2) / 2 - math.log(2 * math.pi) / 2

    def mixture(mean: float) -> Floats:
        tilted = math.log(rate) + mean * y - mean**2 / 2
        return np.asarray(np.logaddexp(math.log1p(-rate), tilted), dtype=np.float64)

    other = mixture(-shift) if replaced else 0.0
    integrand = noise + order * mixture(shift) + (1 - order) * other
    peak = float(integrand.max())
    total = float(np.log(np.exp(integrand - peak).sum() * width)) + peak
    return (max(total, 0.0) + _ROUNDING * (1 + abs(total))) / (order - 1)


def _library(event: Event, orders: Floats) -> Floats:
    """dp-accounting's curve of one step that samples without replacement, or by Poisson sampling (add-remove)."""
    import dp_accounting

    relation = dp_accounting.NeighboringRelation
    if event.sampling == "fixed":
        # Wang, Balle and Kasiviswanathan 2019 (arXiv 1808.00087) bound replace-one by the Gaussian at the distance of a
        # replacement, 2 clip norms; dp-accounting takes the multiplier for a distance of 1, so it gets half of it.
        share = Fraction(event.rate).limit_denominator(10**9)
        base = dp_accounting.GaussianDpEvent(float(event.noise_multiplier) / 2)
        step = dp_accounting.SampledWithoutReplacementDpEvent(share.denominator, share.numerator, base)
        accountant = dp_accounting.rdp.RdpAccountant(orders, relation.REPLACE_ONE)
    else:
        base = dp_accounting.GaussianDpEvent(float(event.noise_multiplier))
        step = dp_accounting.PoissonSampledDpEvent(float(event.rate), base)
        accountant = dp_accounting.rdp.RdpAccountant(orders, relation.ADD_OR_REMOVE_ONE)
    return np.asarray(accountant.compose(step).rdp, dtype=np.float64)


@lru_cache(maxsize=4096)
def _curve(event: Event, by_library: bool) -> Floats:
    """Renyi divergence of one event at each of ORDERS, never above that of the unsampled Gaussian."""
    if event.rate == 0 or event.noise_multiplier == math.inf:
        return np.zeros_like(ORDERS)
    if event.noise_multiplier == 0:
        return np.full_like(ORDERS, math.inf)
    event = capped(event)
    unsampled = ORDERS * sensitivity(event) ** 2 / (2 * event.noise_multiplier**2)
    if event.rate == 1:
        return unsampled
    if event.sampling == "fixed":
        curve = np.full_like(ORDERS, math.inf)
        cheap = (ORDERS <= 96) | (ORDERS > 256)  # dp-accounting's cost is quadratic up to 256, linear above
        curve[cheap] = _library(event, ORDERS[cheap])
    elif by_library and event.relation != "replace-one":
        curve = np.append([_quadrature(event, order) for order in _FRACTIONS], _library(event, np.array(_INTEGERS)))
    else:
        curve = np.array([_quadrature(event, order) for order in ORDERS])
    return np.minimum(curve, unsampled)  # sub-sampling never hurts: the divergence is quasi-convex


def rdp_epsilon(composition: Composition, delta: float, by_library: bool = False) -> float:
    """Upper bound on epsilon from Renyi divergences, at least the reported one; microseconds once an event is known.

    The first time an event costs 1 ms; ``by_library``, with dp-accounting's divergences where it has any, it is 10 ms.

    Mironov, Talwar and Zhang 2019 (arXiv 1908.10530) for each step; Canonne, Kamath and Steinke 2020 (arXiv
    2004.00010, proposition 12) to convert. Infinite where an event with a positive rate has no noise.
    """
    total = np.zeros_like(ORDERS)
    for event, count in composition:
        total = total + count * _curve(event, by_library)
    if delta**2 + np.expm1(-total[0]) > 0:  # total variation is at most sqrt(1 - exp(-divergence))
        return 0.0
    candidates = total + _CONVERSION - math.log(delta) / (ORDERS - 1)
    return max(0.0, float(candidates.min()))
