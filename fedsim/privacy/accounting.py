"""What a composition of noised sums costs: the reported epsilon and its cross-checks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from fedsim.privacy.accounting_export import to_dp_event, to_json
from fedsim.privacy.accounting_pld import Mechanism, Steps, pld_epsilon
from fedsim.privacy.accounting_prv import EPSILON_ERROR, prv_epsilon
from fedsim.privacy.accounting_rdp import capped, rdp_epsilon, sensitivity
from fedsim.privacy.cache import remembered
from fedsim.privacy.events import Composition, Event

__all__ = [
    "AccountantsDisagree",
    "CrossCheck",
    "check_delta",
    "cross_check",
    "epsilon",
    "prompt_epsilon",
    "prv_epsilon",
    "rdp_epsilon",
    "rough_epsilon",
    "to_dp_event",
    "to_json",
]


_VAST = 1e3  # beyond this epsilon a grid may be too coarse to show that sampling helps


class AccountantsDisagree(RuntimeError):
    """Two accountants contradict each other: no epsilon may be reported."""


@dataclass(frozen=True)
class CrossCheck:
    """The same epsilon from three accountants, and the larger of PLD - RDP (0 if negative) and |PRV - PLD|."""

    pld: float
    rdp: float
    prv: float | None
    worst_disagreement: float


def check_delta(delta: float, population: int | None = None) -> None:
    """Raise ValueError unless 0 < delta < 1 and delta < 1 / population.

    At delta >= 1 / population a mechanism that publishes one unit at random would satisfy the definition.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie strictly between 0 and 1, got {delta}")
    if population is not None and delta * population >= 1:
        raise ValueError(
            f"delta must be smaller than 1 / population = {1 / population:.3g} (population {population}), got {delta}: "
            "otherwise publishing one unit at random would count as private"
        )


def _check_events(composition: Composition) -> None:
    relations = {event.relation for event, _ in composition}
    if len(relations) > 1:
        raise ValueError(f"events of one composition must share the neighbouring relation, got {sorted(relations)}")
    for event, _ in composition:
        if event.sampling == "fixed" and event.relation != "replace-one":
            raise ValueError(
                f"fixed-size cohorts give no amplification under {event.relation}: account them without sampling "
                "(sampling 'none', rate 1, relation zero-out), or under the replace-one relation"
            )


def _mechanism(event: Event) -> Mechanism:
    shift = 1 / event.noise_multiplier
    if event.sampling == "fixed":
        return Mechanism("fixed", shift, event.rate)
    return Mechanism("replace" if event.relation == "replace-one" else "poisson", shift, event.rate)


def _steps(composition: Composition) -> Steps:
    """The sub-sampled steps, and every unsampled Gaussian merged into one (their precisions add)."""
    sampled = [(_mechanism(event), count) for event, count in composition if event.rate < 1]
    precision = sum(
        count * (sensitivity(event) / event.noise_multiplier) ** 2 for event, count in composition if event.rate == 1
    )
    return tuple(sampled + ([(Mechanism("gaussian", math.sqrt(precision), 1.0), 1)] if precision else []))


def _gaussian_epsilon(shift: float, delta: float) -> float:
    """Exact epsilon of one Gaussian at a distance of ``shift`` deviations (Balle and Wang 2018, arXiv 1805.06530)."""
    import dp_accounting

    return max(0.0, float(dp_accounting.get_epsilon_gaussian(1 / shift, delta)))


def rough_epsilon(composition: Composition, delta: float, coarseness: float = 1.0) -> float:
    """An upper bound like ``epsilon``, its error ``coarseness`` squared times as large, for searches; not cached."""
    check_delta(delta)
    _check_events(composition)
    live = tuple(
        (capped(event), count)
        for event, count in composition
        if event.rate > 0 and count > 0 and event.noise_multiplier < math.inf
    )
    if not live:
        return 0.0
    if any(event.noise_multiplier == 0 for event, _ in live):
        return math.inf
    steps = _steps(live)
    if len(steps) == 1 and steps[0][0].kind == "gaussian":
        return _gaussian_epsilon(steps[0][0].shift, delta)
    value = pld_epsilon(steps, delta, rdp_epsilon(live, delta), coarseness)
    if value < _VAST:
        return value
    unsampled = _steps(tuple((replace(event, rate=1.0), count) for event, count in live))
    return min(value, _gaussian_epsilon(unsampled[0][0].shift, delta))  # sub-sampling never hurts: they are convex


@lru_cache(maxsize=65536)
def epsilon(composition: Composition, delta: float) -> float:
    """The reported epsilon at ``delta``: an upper bound from privacy loss distributions, within 1e-3 of itself.

    Exact (Balle and Wang 2018) where every unit takes part in every event. Sampling without replacement is the bound of
    Balle, Barthe and Gaboardi 2018. 0 for nothing, infinity where an event that samples anyone has no noise. It grows
    with the counts up to that error. Raises ValueError for delta outside (0, 1), mixed relations, and fixed-size
    cohorts under any relation but replace-one.
    """
    if all(event.rate in (0, 1) for event, _ in composition):
        return rough_epsilon(composition, delta)  # in closed form: quicker than looking it up
    return remembered(f"epsilon at delta {delta!r} of {composition!r}", lambda: rough_epsilon(composition, delta))


@lru_cache(maxsize=65536)
def prompt_epsilon(composition: Composition, delta: float) -> float:
    """The same as ``epsilon`` without a look at the disk, which takes as long as one more step of a known event."""
    return rough_epsilon(composition, delta)


def cross_check(composition: Composition, delta: float) -> CrossCheck:
    """Compare the accountants; raises AccountantsDisagree where they contradict each other.

    All three are upper bounds. The Renyi one is never the tightest, and Opacus returns the truth plus 0 to twice its
    error of 0.01; either may lie below the reported epsilon by that one's discretisation error only. Twice 1e-3 of
    epsilon and 1e-3 allow five times the errors that are found when the accountants are compared.
    """
    pld, prv = epsilon(composition, delta), prv_epsilon(composition, delta)
    rdp = rdp_epsilon(composition, delta, True)
    if math.isinf(pld) and math.isinf(rdp):
        return CrossCheck(pld, rdp, prv, 0.0)
    low, apart, slack = max(0.0, pld - rdp), 0.0 if prv is None else prv - pld, 1e-3 * pld + 1e-4
    if low > 2 * slack or not -slack <= apart <= 2 * EPSILON_ERROR + 2 * slack + 1e-3:
        raise AccountantsDisagree(f"epsilon at delta {delta}: PLD {pld}, RDP {rdp}, PRV {prv}, for {composition}")
    return CrossCheck(pld, rdp, prv, max(low, abs(apart)))
