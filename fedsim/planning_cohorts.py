"""How large a cohort may be for a target epsilon, when noise and rounds stay as they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from fedsim.planning_spenders import Spender, UnitPlan, times_of
from fedsim.privacy.plan import ClientPlan
from fedsim.privacy.sampling import All, CohortSampling, Fixed, Poisson

if TYPE_CHECKING:
    from fedsim.scenario import Scenario

_LEAST_RATE, _PRECISION = 1e-6, 1e-3  # the smallest rate that is tried, and by how much of itself one may be too small


def cohort_within(
    scenario: Scenario, plans: Sequence[UnitPlan], spenders: Sequence[Spender], target: float
) -> dict[str, Any] | None:
    """The largest cohort with which everybody stays within the target, as ``[cohort] sampling``; None if none does.

    Cohorts of everybody are answered with the rate of a Poisson draw. A projected epsilon does not depend on them.
    """
    client = scenario.privacy.client
    if isinstance(plans[0], ClientPlan) and client is not None and client.projected is not None:
        return None

    def within(sampling: CohortSampling) -> bool:
        others = [_drawn_by(sampling, scenario, plans, spender) for spender in spenders]
        return all(other.within(other.after(scenario.rounds), target) for other in others)

    sampling = scenario.cohort.sampling
    if isinstance(sampling, Fixed):
        size = _last_size(within, len(plans[0].deltas))
        return asdict(Fixed(size=size)) if size else None
    drawn = Poisson() if isinstance(sampling, All) else sampling
    rate = _last_rate(lambda value: within(replace(drawn, rate=value)))
    return asdict(replace(drawn, rate=rate)) if rate else None


def _drawn_by(sampling: CohortSampling, scenario: Scenario, plans: Sequence[UnitPlan], spender: Spender) -> Spender:
    """The spender under another rule by which cohorts are drawn."""
    other = replace(scenario, cohort=replace(scenario.cohort, sampling=sampling))
    releases = []
    for release, plan in zip(spender.releases, plans, strict=True):
        event = release.event
        if isinstance(plan, ClientPlan) and plan.placement == "server":
            relation = scenario.privacy.client.relation if scenario.privacy.client else None
            event = sampling.event(event.noise_multiplier, relation, len(plan.deltas))
        releases.append(replace(release, event=event, times=times_of(other, plan, None)))
    return replace(spender, releases=tuple(releases))


def _last_size(within: Any, clients: int) -> int:
    """The largest cohort of fixed size, 0 if there is none."""
    low, high = 0, clients + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(Fixed(size=middle)) else (low, middle)
    return low


def _last_rate(within: Any) -> float:
    """The largest rate, never too large, 0 if there is none."""
    if within(1.0):
        return 1.0
    low, high = math.log(_LEAST_RATE), 0.0
    if not within(_LEAST_RATE):
        return 0.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if within(math.exp(middle)) else (low, middle)
    return math.exp(low)
