"""What choosing the best of several runs costs: a random number of tries (Papernot and Steinke 2022, arXiv 2110.03620).

Each try is a whole private run, with hyper-parameters drawn independently of the data; only the best run is published.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedsim.privacy.accounting import check_delta, epsilon

# The Renyi divergence of one event at orders of our choice: the selection's optimum lies between those of rdp_epsilon.
from fedsim.privacy.accounting_rdp import _library, _quadrature, capped, sensitivity
from fedsim.privacy.events import Composition, Event, compose

Floats = npt.NDArray[np.float64]

POISSON = math.inf

_ORDERS: Floats = np.array(
    [1.02, 1.05, *(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 65), 80, 96, 128, 256, 512, 1024]
)


@dataclass(frozen=True)
class Tries:
    """How many runs there are: a random number of the given mean, drawn before the first and kept secret.

    ``shape`` above -1 is the truncated negative binomial distribution (1 is geometric, 0 logarithmic; the smaller, the
    cheaper and the wider), POISSON (infinity) the Poisson distribution, which may be no run at all. Raises ValueError
    for a mean below 1 and any other shape.
    """

    mean: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.mean < math.inf:
            raise ValueError(f"the mean number of tries must be at least 1 and finite, got {self.mean}")
        if not self.shape > -1:
            raise ValueError(f"the shape must be above -1, got {self.shape}")

    @property
    def log_odds(self) -> float:
        """log(1 / gamma) of the truncated negative binomial (the paper's definition 1), from the mean."""
        from scipy.optimize import brentq

        if self.mean == 1:
            return 0.0
        high = 1.0
        while self._mean_at(high) < self.mean:
            high *= 2
        return float(brentq(lambda x: self._mean_at(x) - self.mean, 0.0, high, xtol=1e-15, rtol=1e-14))

    def _mean_at(self, x: float) -> float:
        """The mean at gamma = exp(-x)."""
        if x == 0:
            return 1.0
        return math.expm1(x) / x if self.shape == 0 else -self.shape * math.expm1(x) / math.expm1(-self.shape * x)


def selection_epsilon(base: Composition, delta: float, tries: Tries) -> float:
    """Upper bound on epsilon of publishing the best of ``tries`` runs that spend ``base`` each.

    By Renyi divergences: theorem 2 of Papernot and Steinke 2022 (arXiv 2110.03620), theorem 6 for a Poisson number.
    Infinite where an event has no noise. Raises ValueError for delta outside (0, 1) and what ``epsilon`` refuses.
    """
    check_delta(delta)
    epsilon(base, delta)  # refuses compositions that mean nothing
    live = [(capped(event), count) for event, count in base if event.rate > 0 and event.noise_multiplier < math.inf]
    if not live:
        return 0.0
    if any(event.noise_multiplier == 0 for event, _ in live):
        return math.inf
    return converted(selected(np.sum([count * divergences(event) for event, count in live], axis=0), tries), delta)


def selected(curve: Floats, tries: Tries) -> Floats:
    """Renyi divergences of publishing the best of ``tries`` runs, from those of each run ``[orders]``."""
    return _poisson(curve, tries.mean) if tries.shape == POISSON else _negative_binomial(curve, tries)


def converted(curve: Floats, delta: float) -> float:
    """Upper bound on epsilon at ``delta`` of what has these Renyi divergences ``[orders]``."""
    import dp_accounting

    return max(0.0, float(dp_accounting.rdp.compute_epsilon(_ORDERS, curve, delta)[0]))


def naive_epsilon(base: Composition, delta: float, tries: int) -> float:
    """The reported epsilon of publishing all of ``tries`` runs that spend ``base`` each, by plain composition."""
    if tries < 0:
        raise ValueError(f"there cannot be {tries} tries")
    return epsilon(compose([(event, count * tries) for event, count in base]), delta)


def _negative_binomial(curve: Floats, tries: Tries) -> Floats:
    """Theorem 2; its second order may be 1, where the first term vanishes, and is independent of the first order."""
    x = tries.log_odds
    penalty = min(x, float(np.min((1 - 1 / _ORDERS) * curve + x / _ORDERS)))
    return curve + (1 + tries.shape) * penalty + math.log(tries.mean) / (_ORDERS - 1)


def _poisson(curve: Floats, mean: float) -> Floats:
    """Theorem 6, with delta at epsilon = log(1 + 1 / (order - 1)) of one run from its divergences."""
    epsilons = np.log1p(1 / (_ORDERS - 1))
    return curve + mean * _delta(curve, epsilons) + math.log(mean) / (_ORDERS - 1)


def _delta(curve: Floats, epsilons: Floats) -> Floats:
    """The least delta at each epsilon (Canonne, Kamath and Steinke 2020, arXiv 2004.00010, proposition 12)."""
    logs = (_ORDERS - 1) * (curve - epsilons[:, None]) + (_ORDERS - 1) * np.log1p(-1 / _ORDERS) - np.log(_ORDERS)
    return np.asarray(np.exp(np.minimum(logs.min(axis=1), 0.0)), dtype=np.float64)


def divergences(event: Event) -> Floats:
    """Renyi divergence of one event with noise at each order ``[orders]``, never above the unsampled Gaussian's."""
    unsampled = _ORDERS * sensitivity(event) ** 2 / (2 * event.noise_multiplier**2)
    if event.rate == 1:
        return unsampled
    if event.sampling == "fixed":
        return np.minimum(_library(event, _ORDERS), unsampled)
    return np.minimum([_quadrature(event, float(order)) for order in _ORDERS], unsampled)
