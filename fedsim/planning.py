"""Planning before spending: what settings cost, and which noise or how many steps a target allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import BadInput, FedsimError
from fedsim.privacy.accounting import AccountantsDisagree, cross_check, epsilon, rdp_epsilon, rough_epsilon
from fedsim.privacy.calibration import UNLIMITED, calibrate_noise
from fedsim.privacy.events import Composition, Event, Relation, Sampling, compose

if TYPE_CHECKING:
    from fedsim.privacy.plan import ExamplePlan

LEAST_NOISE, LEAST_DELTA = 1e-3, 1e-20  # what the accountants can do
VACUOUS = 1e4  # an epsilon from here on is given by its Renyi bound, which takes no time; none is aimed at

_EXACT_STEPS = 10_000  # up to here a number of steps is exact, beyond it is too small by one part in as many at most
_ROUGH_STEPS = 200  # the same for the search with a rough bound that goes before
_SECANTS = 12  # attempts before the search for a number of steps halves its interval instead


@dataclass(frozen=True)
class Question:
    """Releases at a sampling ``rate``: of noise multiplier, epsilon and steps two are given and the third is asked.

    ``table_rows`` asks for the epsilons on the way to ``steps`` too.
    """

    delta: float
    steps: int | None = None
    rate: float | None = None
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    relation: Relation | None = None
    sampling: Sampling = "poisson"
    population: int | None = None
    cohort: int | None = None
    table_rows: int | None = None

    @property
    def neighbours(self) -> Relation:
        """The neighbouring relation; cohorts of fixed size are accounted under replace-one."""
        return self.relation or ("replace-one" if self.sampling == "fixed" else "add-remove")

    def at(self, noise_multiplier: float, steps: int) -> Composition:
        """The composition of so many steps; raises ``BadInput`` for settings that no theorem covers."""
        if self.sampling == "fixed" and self.neighbours != "replace-one":
            raise BadInput(
                "--sampling fixed: cohorts of fixed size are accounted under --relation replace-one; under add-remove "
                "they give no amplification (use --sampling none, without --cohort)."
            )
        try:
            return compose([(Event(noise_multiplier, self._rate(), self.sampling, self.neighbours), steps)])
        except ValueError as error:
            raise BadInput(f"{error}.") from error

    def _rate(self) -> float:
        if self.sampling == "none":
            for name, value in (("rate", None if self.rate == 1 else self.rate), ("cohort", self.cohort)):
                if value is not None:
                    raise BadInput(f"--{name} {value}: with --sampling none nothing is sub-sampled; leave it out.")
            return 1.0
        if self.cohort is None:
            if self.rate is None:
                raise BadInput("Give --rate, or --population and --cohort.")
            return self.rate
        if self.population is None:
            raise BadInput(f"--cohort {self.cohort}: give --population too.")
        if self.rate is not None:
            raise BadInput(f"--rate {self.rate}: --cohort / --population is the rate already; leave one of them out.")
        if not 0 < self.cohort <= self.population:
            raise BadInput(f"--cohort {self.cohort}: must be between 1 and --population {self.population}.")
        return self.cohort / self.population


def answer(question: Question) -> dict[str, Any]:
    """The noise multiplier or the steps if asked for, the epsilon with its cross-checks, the table if asked for.

    Raises ``BadInput`` for an impossible question, ``FedsimError`` where the accountants contradict each other.
    """
    _check(question)
    try:
        return _answer(question)
    except AccountantsDisagree as error:
        raise FedsimError(
            f"No number can be relied on here, for the accountants contradict each other: {error}."
        ) from error
    except (ValueError, OverflowError) as error:
        raise BadInput(f"This is beyond what the accountants can compute: {error}.") from error


def _answer(question: Question) -> dict[str, Any]:
    noise, steps, target, delta = question.noise_multiplier, question.steps, question.target_epsilon, question.delta
    found: dict[str, Any] = {}
    if noise is None:
        assert steps is not None  # as _check saw to
        assert target is not None
        noise = found["noise_multiplier"] = calibrate_noise(partial(question.at, steps=steps), target, delta)
    if steps is None:
        assert target is not None
        steps = found["steps"] = most_steps(partial(question.at, noise), target, delta)
    found |= _epsilon(question, question.at(noise, steps))
    if question.table_rows is not None:
        counts = sorted({-(-steps * row // question.table_rows) for row in range(1, question.table_rows + 1)} - {0})
        found["table"] = [{"steps": count, "epsilon": _reported(question.at(noise, count), delta)} for count in counts]
    return found


def _check(question: Question) -> None:
    """Raise ``BadInput`` unless two of the three are given and every number is in its range."""
    noise, target, steps, rows = (
        question.noise_multiplier,
        question.target_epsilon,
        question.steps,
        question.table_rows,
    )
    if steps is None and (noise is None or target is None):
        raise BadInput("Give --steps, or both --noise and --target-epsilon to ask how many steps that allows.")
    if steps is not None and (noise is None) == (target is None):
        raise BadInput("Give exactly one of --noise and --target-epsilon.")
    for name, value, valid in (
        ("relation", question.neighbours, ("add-remove", "replace-one")),
        ("sampling", question.sampling, ("poisson", "fixed", "none")),
    ):
        if value not in valid:
            raise BadInput(f"--{name} {value}: must be one of {', '.join(valid)}.")
    check_delta(question.delta, question.population)
    if steps is not None and not 0 <= steps <= UNLIMITED:
        raise BadInput(f"--steps {steps}: must be between 0 and {UNLIMITED}.")
    if noise is not None and not (noise == 0 or LEAST_NOISE <= noise < math.inf):
        raise BadInput(f"--noise {noise}: must be 0, or at least {LEAST_NOISE} and finite.")
    if target is not None and not 0 < target <= VACUOUS:
        raise BadInput(f"--target-epsilon {target}: must be above 0 and at most {VACUOUS:g}.")
    if rows is not None and not 1 <= rows <= 1000:
        raise BadInput(f"--table {rows}: must be between 1 and 1000 rows.")


def check_delta(delta: float, population: int | None = None) -> None:
    """Raise ``BadInput`` unless ``delta`` is in the accountants' range and below 1 / population."""
    if not LEAST_DELTA <= delta < 1:
        raise BadInput(f"--delta {delta}: must be at least {LEAST_DELTA:g} and below 1.")
    if population is None:
        return
    if population < 1:
        raise BadInput(f"--population {population}: must be at least 1.")
    if delta >= 1 / population:
        raise BadInput(
            f"--delta {delta}: must be below 1 / population = {1 / population:.3g}; at or above "
            "that, publishing one member's data whole would count as private."
        )


def _epsilon(question: Question, composition: Composition) -> dict[str, Any]:
    """The reported epsilon, by which accountant, and the cross-checks."""
    rdp = rdp_epsilon(composition, question.delta)
    value, prv, accountant = rdp, None, "rdp"
    if question.target_epsilon is not None or _meaningful(rdp):
        check = cross_check(composition, question.delta)
        value, prv, accountant = check.pld, check.prv, "pld"
    return {
        "epsilon": value,
        "delta": question.delta,
        "accountant": accountant,
        "rdp": rdp,
        "prv": prv,
        "relation": question.neighbours,
        "sampling": question.sampling,
    }


def _meaningful(rdp: float) -> bool:
    """Whether an epsilon deserves the reported accountant: infinity does, because it is exact."""
    return rdp < VACUOUS or rdp == math.inf


def _reported(composition: Composition, delta: float) -> float:
    rdp = rdp_epsilon(composition, delta)
    return epsilon(composition, delta) if _meaningful(rdp) else rdp


def most_steps(at: Callable[[int], Composition], target_epsilon: float, delta: float) -> int:
    """The largest count for which ``at(count)`` has epsilon <= target_epsilon, never too many; UNLIMITED at most.

    Exact up to 10,000, beyond that at most 1e-4 of itself too small (the accountant's own error is larger).
    """

    def excess(bound: Callable[[Composition, float], float]) -> Callable[[int], float]:
        return lambda count: _log(bound(at(count), delta) / target_epsilon)

    if excess(epsilon)(0) > 0:
        return 0
    if excess(rdp_epsilon)(UNLIMITED) <= 0 and excess(epsilon)(UNLIMITED) <= 0:
        return UNLIMITED
    low, _ = _last(excess(rdp_epsilon), 1, 1, 0.6)  # nearly free, and at most a few tens of per cent too small
    low, slope = _last(excess(partial(rough_epsilon, coarseness=8.0)), low, _ROUGH_STEPS, 0.6)
    return _last(excess(epsilon), low, _EXACT_STEPS, slope)[0]


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _last(excess: Callable[[int], float], count: int, parts: int, slope: float) -> tuple[int, float]:
    """The last count at which the growing ``excess`` is not above 0, to one part in ``parts``, and the slope there.

    A secant in log(count), of ``slope`` at first, that starts at ``count`` and aims a little beyond the root, to either
    side in turn, so that both ends of the interval close in; where that is slow, it is halved.
    """
    low, high, last = 0, UNLIMITED + 1, (0.0, -math.inf)
    for attempt in range(100):
        count = min(max(count, low + 1), high - 1)
        x, y = math.log(count), excess(count)
        low, high = (count, high) if y <= 0 else (low, count)
        slack = max(1, low // parts)
        if high - low <= slack:
            break
        if math.isfinite(y) and math.isfinite(last[1]) and x != last[0]:
            slope = min(max((y - last[1]) / (x - last[0]), 0.05), 3.0)
        last = (x, y)
        count = round(math.exp(x + min(max(-y / slope, -2.0), 2.0)) + (0.4 if y <= 0 else -0.4) * slack)
        if attempt >= _SECANTS or not low < count < high:
            count = (low + min(high, 8 * low + 2)) // 2
    return low, slope


def plan_scenario(path: str | Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a scenario will spend: per unit, the epsilon of a client that takes part every time it may."""
    from fedsim.federation import build_federation, pinned
    from fedsim.loading import load_scenario
    from fedsim.privacy.ledger import max_epsilon

    scenario = pinned(load_scenario(path, overrides))
    plans = [build_federation(fold).plan for fold in scenario.runs]
    units = []
    if plans[0].example is not None:
        examples = [plan.example for plan in plans if plan.example is not None]
        spent = set(map(_composition, zip(*(_releases(plan) for plan in examples), strict=True)))
        units.append(_unit(examples, max_epsilon(spent), examples[0].participations))
    if plans[0].client is not None:
        clients = [plan.client for plan in plans if plan.client is not None]
        times = clients[0].most_charges or scenario.cohort.sampling.times(scenario.rounds)
        counts = [(plan.event, plan.most_charges or times) for plan in clients]
        spent = {(compose(counts), float(clients[0].deltas[0]))}
        units.append(_unit(clients, max_epsilon(spent), times))
    return {"scenario": scenario.name, "digest": scenario.digest, "rounds": scenario.rounds, "privacy": units}


def _releases(plan: ExamplePlan) -> list[tuple[Event, int, float]]:
    """Each client's event, how often it is expected to happen, and its delta."""
    counts = plan.steps * plan.participations
    return [(plan.event(client), int(counts[client]), float(plan.deltas[client])) for client in range(len(counts))]


def _composition(releases: tuple[tuple[Event, int, float], ...]) -> tuple[Composition, float]:
    """One client's releases in all folds, and its least delta."""
    return compose([(event, count) for event, count, _ in releases]), min(delta for *_, delta in releases)


def _unit(plans: Sequence[Any], epsilon: float, rounds: int) -> dict[str, Any]:
    """What a unit spends over all folds, each of which has the budget to itself."""
    plan = plans[0]
    noise = [
        value
        for one in plans
        for value in (one.noise_multipliers if one.unit == "example" else [one.event.noise_multiplier])
    ]
    return {
        "unit": plan.unit,
        "epsilon": min(epsilon, plan.budget) if plan.budget and len(plans) == 1 else epsilon,
        "delta": max(float(one.deltas.max()) for one in plans),
        "rounds": rounds,
        "noise_multiplier": {"min": float(min(noise)), "max": float(max(noise))},
        "budget": plan.budget,
        **({"folds": len(plans)} if len(plans) > 1 else {}),
    }
