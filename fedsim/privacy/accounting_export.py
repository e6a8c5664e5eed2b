"""A composition in the terms of other tools, so that anyone can recompute its epsilon."""

from __future__ import annotations

from dataclasses import asdict
from fractions import Fraction
from typing import Any

from fedsim.privacy.events import Composition, Event


def _step(event: Event) -> Any:
    import dp_accounting

    gaussian = dp_accounting.GaussianDpEvent(float(event.noise_multiplier))
    if event.sampling == "poisson":
        return dp_accounting.PoissonSampledDpEvent(float(event.rate), gaussian)
    if event.sampling == "fixed":
        share = Fraction(event.rate).limit_denominator(10**9)
        return dp_accounting.SampledWithoutReplacementDpEvent(share.denominator, share.numerator, gaussian)
    return gaussian


def to_dp_event(composition: Composition) -> Any:
    """The composition as a ``dp_accounting.DpEvent``; the neighbouring relation is the accountant's argument there.

    dp-accounting's Renyi accountant ignores that replacing a unit doubles the sensitivity: halve the noise for it.
    """
    import dp_accounting

    steps = [dp_accounting.SelfComposedDpEvent(_step(event), count) for event, count in composition]
    return dp_accounting.ComposedDpEvent(steps)


def to_json(composition: Composition) -> list[dict[str, Any]]:
    """One dictionary an event: noise_multiplier, rate, sampling, relation, count."""
    return [{**asdict(event), "count": count} for event, count in composition]
