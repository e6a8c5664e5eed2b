"""What a scenario will spend, before it is run: epsilon over the rounds, what fits a budget, what meets a target."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import BadInput
from fedsim.planning import VACUOUS
from fedsim.planning_cohorts import cohort_within
from fedsim.planning_spenders import (
    Spender,
    UnitPlan,
    histories_of,
    largest,
    least_noise,
    most_rounds,
    spenders_of,
    times_of,
)
from fedsim.privacy.events import Composition
from fedsim.privacy.plan import ClientPlan, ExamplePlan, PrivacyPlan
from fedsim.privacy.planning import PARTICIPATION_QUANTILE, make_plan

if TYPE_CHECKING:
    from fedsim.asynchronous.schedule import Schedule
    from fedsim.scenario import Scenario

ROWS = 10


@dataclass(frozen=True)
class _Fold:
    """One run's plan, its schedule if it is asynchronous, and the fingerprint of who holds what, if that was read."""

    plan: PrivacyPlan
    schedule: Schedule | None = None
    population: str | None = None


def plan_scenario(
    path: str | Path, overrides: tuple[str, ...] = (), rows: int = ROWS, target_epsilon: float | None = None
) -> dict[str, Any]:
    """What a scenario file will spend: per unit epsilon over the rounds, what its budget allows, what meets a target.

    The data are read only where the answer depends on who holds how much. Raises ``BadInput``.
    """
    from fedsim.loading import load_scenario

    return foresee(load_scenario(path, overrides), rows, target_epsilon)


def foresee(scenario: Scenario, rows: int = ROWS, target_epsilon: float | None = None) -> dict[str, Any]:
    """The same for a scenario that is loaded."""
    from fedsim.models.transfer import pinned

    if not 1 <= rows <= 1000:
        raise BadInput(f"--table {rows}: must be between 1 and 1000 rows.")
    if target_epsilon is not None and not 0 < target_epsilon <= VACUOUS:
        raise BadInput(f"--target-epsilon {target_epsilon}: must be above 0 and at most {VACUOUS:g}.")
    scenario = replace(scenario, model=pinned(scenario.model))
    folds = [_fold(scenario, fold) for fold in scenario.runs]
    units = [_Unit.of(scenario, folds, number) for number in range(len(folds[0].plan.units))]
    return {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "rounds": scenario.rounds,
        "privacy": [unit.facts(rows, target_epsilon) for unit in units] or [_nothing(scenario)],
        "notes": [*_notes(scenario, folds), *(_target_notes(units) if target_epsilon is not None else [])],
    }


def _nothing(scenario: Scenario) -> dict[str, Any]:
    """What is said of a run without privacy."""
    table = [{"round": scenario.rounds, "participations": scenario.rounds, "epsilon": math.inf}]
    return {"unit": "none", "epsilon": math.inf, "delta": 0.0, "table": table}


def _fold(scenario: Scenario, fold: Scenario) -> _Fold:
    """A fold's plan: from the scenario alone where that is enough, else from the clients' sizes."""
    clients = _known_clients(scenario)
    if clients is None:
        return _read(fold)
    _check(scenario, clients)
    return _Fold(make_plan(fold, np.ones(clients, np.int64)))


def _known_clients(scenario: Scenario) -> int | None:
    """The number of clients that train, if the plan depends on nothing else; None where the data must be read."""
    example, privacy, clients = scenario.privacy.example, scenario.privacy, scenario.population.clients
    shared = privacy.ledger is not None and Path(privacy.ledger).exists()
    natural = scenario.population.partition.kind == "natural"
    sized = example is not None and (example.sampling_rate is None or example.delta is None)
    if clients is None or natural or sized or shared or scenario.asynchronous is not None:
        return None
    share = scenario.evaluation.unseen_clients
    return clients - max(1, round(share * clients)) if share else clients


def _check(scenario: Scenario, clients: int) -> None:
    from fedsim.checks import check_clients

    if problems := list(check_clients(scenario, clients)):
        raise BadInput("; ".join(problems) + ".")


def _read(scenario: Scenario) -> _Fold:
    """The plan from the data; an asynchronous run's schedule depends on the model's size too."""
    from fedsim.holdings import load_holdings

    if scenario.asynchronous is not None:
        from fedsim.federation import build_federation  # and with it all that trains, which is slow to import

        federation = build_federation(scenario)
        schedule = federation.pace.schedule if federation.pace is not None else None
        return _Fold(federation.plan, schedule, federation.population.digest())
    population = load_holdings(scenario).population
    _check(scenario, len(population))
    return _Fold(make_plan(scenario, population.sizes), None, population.digest())


@dataclass(frozen=True)
class _Unit:
    """One unit of a scenario over all folds, each of which has the budget to itself."""

    scenario: Scenario
    plans: Sequence[UnitPlan]
    schedules: Sequence[Schedule | None]
    spenders: Sequence[Spender]

    @classmethod
    def of(cls, scenario: Scenario, folds: Sequence[_Fold], number: int) -> _Unit:
        """The unit with this number in every fold's plan."""
        plans, schedules = [fold.plan.units[number] for fold in folds], [fold.schedule for fold in folds]
        times = [times_of(scenario, plan, schedule) for plan, schedule in zip(plans, schedules, strict=True)]
        shared, population = scenario.privacy.ledger, folds[0].population
        histories = None
        if shared is not None and Path(shared).exists() and population is not None:
            histories = histories_of(Path(shared), population, plans[0].unit)
            _check_relations(shared, histories, plans[0])
        return cls(scenario, plans, schedules, spenders_of(plans, times, histories))

    @property
    def budget(self) -> float | None:
        """What the ledger lets nobody exceed; none holds over several folds."""
        return self.plans[0].budget if len(self.plans) == 1 else None

    def facts(self, rows: int, target_epsilon: float | None) -> dict[str, Any]:
        """All that is said of the unit."""
        rounds, budget, plan = self.scenario.rounds, self.budget, self.plans[0]
        before, noise = largest(self.spenders, 0), [value for each in self.plans for value in _noise(each)]
        facts: dict[str, Any] = {
            "unit": plan.unit,
            "epsilon": self._kept(largest(self.spenders, self._last(rounds)), before),
            "delta": max(float(each.deltas.max()) for each in self.plans),
            "participations": self._participations(rounds),
            "noise_multiplier": {"min": min(noise), "max": max(noise)},
            "budget": plan.budget,
            "clients": self._clients(),
            **({"folds": len(self.plans)} if len(self.plans) > 1 else {}),
            **({"spent_before": before} if before else {}),
        }
        if budget is not None:
            facts["rounds_within_budget"] = self._fitting
        if target_epsilon is not None:
            facts["target"] = self._target(target_epsilon)
        return facts | {"table": self._table(rows, before)}

    @cached_property
    def _fitting(self) -> int:
        """The last round that fits the budget."""
        return self._most_rounds(self.budget) if self.budget is not None else self.scenario.rounds

    def _last(self, rounds: int) -> int:
        """The last of so many rounds that takes place: a round that everybody is charged for, or nobody, ends the run.

        Where those are left out who cannot pay, the run goes on with the others.
        """
        plan, everybody = self.plans[0], self.scenario.cohort.sampling.kind == "all"
        whole = isinstance(plan, ClientPlan) and plan.placement == "server"
        stops = whole or (everybody and self.schedules[0] is None)
        return min(rounds, self._fitting) if stops else rounds

    def _kept(self, value: float, before: float) -> float:
        """An epsilon as the ledger lets it become: whoever would exceed the budget is left out."""
        return value if self.budget is None else max(before, min(value, self.budget))

    def _participations(self, rounds: int) -> int:
        return max(release.times(rounds) for spender in self.spenders for release in spender.releases)

    def _most_rounds(self, target: float) -> int:
        found = most_rounds(self.spenders, target)
        return min(found, self.scenario.rounds) if self.schedules[0] is not None else found

    def _clients(self) -> dict[str, float]:
        """The largest, median and smallest epsilon over clients that take part as often as any may."""
        last = self._last(self.scenario.rounds)
        values, numbers = zip(
            *sorted((self._kept(each.epsilon(last), each.epsilon(0)), each.clients) for each in self.spenders),
            strict=True,
        )
        ends = np.cumsum(numbers)
        low, high = (values[int(np.searchsorted(ends, at, "right"))] for at in ((ends[-1] - 1) // 2, ends[-1] // 2))
        return {"max": values[-1], "median": (low + high) / 2, "min": values[0]}

    def _table(self, rows: int, before: float) -> list[dict[str, Any]]:
        """Epsilon at the end of some rounds, the last among them."""
        rounds = self.scenario.rounds
        table = []
        for number in sorted({-(-rounds * row // rows) for row in range(1, rows + 1)}):
            value, kept = (largest(self.spenders, end) for end in (number, self._last(number)))
            row: dict[str, Any] = {"round": number, "participations": self._participations(number)}
            row["epsilon"] = self._kept(kept, before)
            table.append(row | ({} if self.budget is None else {"within_budget": value <= self.budget}))
        return table

    def _target(self, target: float) -> dict[str, Any]:
        """The noise, the rounds or the cohort that keeps everybody within a target, all else as it is."""
        return {
            "epsilon": target,
            "noise_multiplier": least_noise(self.spenders, self.scenario.rounds, target),
            "rounds": self._most_rounds(target),
            "cohort": self._cohort(target),
        }

    def _cohort(self, target: float) -> dict[str, Any] | None:
        """The cohort of an asynchronous run is what its devices make of it, and no setting."""
        if self.schedules[0] is not None:
            return None
        return cohort_within(self.scenario, self.plans, self.spenders, target)


def _noise(plan: UnitPlan) -> list[float]:
    """The noise multipliers of a plan."""
    values = plan.noise_multipliers if isinstance(plan, ExamplePlan) else np.array([plan.event.noise_multiplier])
    return [float(value) for value in np.unique(values)]


def _check_relations(shared: str, histories: Sequence[Composition], plan: UnitPlan) -> None:
    """Raise ``BadInput`` if the ledger holds events under another relation than the plan's."""
    own = plan.event.relation if isinstance(plan, ClientPlan) else plan.event(0).relation
    found = {event.relation for history in set(histories) for event, _ in history}
    if other := found - {own}:
        raise BadInput(
            f'privacy.ledger = "{shared}": it holds {plan.unit}-level events under {other.pop()}, which do not compose '
            f"with this run's {own}. Use a ledger for each relation."
        )


def _target_notes(units: Sequence[_Unit]) -> Iterator[str]:
    """How what meets a target is to be read, where anything is protected."""
    if units:
        yield (
            "Any one of what stands under target is enough, all else as it is: the noise multiplier (one for all "
            "clients), the rounds, or the cohort. Rounds and cohort hold for the noise that the plan has now: where "
            "the scenario gives a target_epsilon, other rounds get other noise; set noise_multiplier to keep it."
        )


def _notes(scenario: Scenario, folds: Sequence[_Fold]) -> Iterator[str]:
    """What the numbers rest on."""
    plan, sampling = folds[0].plan, scenario.cohort.sampling
    charged_if_drawn = plan.example is not None or (plan.client is not None and plan.client.placement == "client")
    if charged_if_drawn and sampling.kind != "all" and scenario.asynchronous is None:
        yield (
            f"Cohorts are drawn: the example-level numbers (and those of local noise) are for a client that takes part "
            f"as often as {PARTICIPATION_QUANTILE:.1%} of clients do at most."
        )
    if plan.units and folds[0].population is None:
        yield "Nothing here depends on who holds how much, so the data was not read" + (
            "; that delta is below 1 / n for every client was not checked (fedsim check does)." if plan.example else "."
        )
    if scenario.privacy.ledger is not None and Path(scenario.privacy.ledger).exists():
        yield f"All that {scenario.privacy.ledger} holds of other runs is counted."
