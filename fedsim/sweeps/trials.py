"""The settings of a sweep as scenarios: what the base becomes with a setting's values and a seed."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fedsim.loading import ScenarioError, parse_scenario
from fedsim.scenario import Scenario
from fedsim.sweeps.settings import Sweep, is_infinite

Json = dict[str, Any]
MOST_SHOWN = 20


@dataclass(frozen=True)
class Trial:
    """One setting of a sweep: its number, and its values by dotted key."""

    number: int
    values: Json

    @property
    def key(self) -> str:
        """The same for the same values."""
        return json.dumps(self.values, sort_keys=True)

    def label(self) -> str:
        """The setting in words, for messages."""
        values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.values.items())
        return f"trial {self.number} ({values})" if values else f"trial {self.number}"


@dataclass(frozen=True)
class Task:
    """One run of a sweep: a setting with a seed, and after which round it is paused (None: not at all)."""

    trial: Trial
    seed: int
    until: int | None = None

    @property
    def name(self) -> str:
        """The run's directory below ``runs/``."""
        return f"t{self.trial.number:04d}-s{self.seed}"


def settled(values: Json) -> Json:
    """The values that matter, infinity as "inf": where a unit is not protected its other settings mean nothing."""
    off = [unit for unit in ("example", "client") if is_infinite(values.get(_target(unit)))]
    inside = tuple(f"privacy.{unit}." for unit in off)
    targets = [_target(unit) for unit in off]
    kept = {key: value for key, value in values.items() if key in targets or not key.startswith(inside)}
    return {key: "inf" if is_infinite(value) else value for key, value in kept.items()}


def _target(unit: str) -> str:
    return f"privacy.{unit}.target_epsilon"


def tables_of(sweep: Sweep, values: Json, seed: int) -> Json:
    """The raw tables of a scenario; a unit whose target epsilon is infinite loses its privacy section.

    Raises ``ScenarioError`` where a key goes through something that is no table.
    """
    tables = copy.deepcopy(sweep.base) | {"seed": seed}
    for key, value in values.items():
        if key in (_target("example"), _target("client")) and is_infinite(value):
            tables.get("privacy", {}).pop(key.split(".")[1], None)
            continue
        *parents, last = key.split(".")
        table = tables
        for step in parents:
            table = table.setdefault(step, {})
            if not isinstance(table, dict):
                raise ScenarioError("space", [f"{key}: {step} is no table in the base scenario"])
        table[last] = copy.deepcopy(value)
    return tables


def scenario_of(sweep: Sweep, trial: Trial, seed: int, threads: int) -> Scenario:
    """The scenario of one run, on so many threads unless it says so itself. Raises ``ScenarioError``."""
    import tomli_w

    tables = tables_of(sweep, trial.values, seed)
    engine = tables.setdefault("engine", {})
    if isinstance(engine, dict):
        engine.setdefault("workers", threads)
    return parse_scenario(tomli_w.dumps(tables), sweep.name, where=trial.label())


def distinct(settings: Iterable[Json], taken: Iterable[str] = ()) -> Iterator[Trial]:
    """The settings as trials numbered from the number of ``taken`` keys on, without those that were there before."""
    seen = set(taken)
    for values in settings:
        trial = Trial(len(seen), settled(values))
        if trial.key not in seen:
            seen.add(trial.key)
            yield trial


def check_trials(sweep: Sweep, trials: list[Trial]) -> None:
    """Raise ``ScenarioError`` with the problems of every setting that is no valid scenario."""
    problems: list[str] = []
    for trial in trials:
        try:
            scenario = scenario_of(sweep, trial, sweep.search.seeds[0], 1)
        except ScenarioError as error:
            problems += [f"{trial.label()}: {problem}" for problem in error.problems]
            continue
        if scenario.privacy.ledger is not None:
            problems.append(
                f"{trial.label()}: privacy.ledger: a setting's epsilon would hang on which runs happened to end before "
                "it; leave it out, the report of the sweep adds up what all its runs spend"
            )
        if sweep.search.halving is not None and len(scenario.runs) > 1:
            problems.append(f"{trial.label()}: sweep.halving cannot pause a cross-validation (evaluation.folds)")
    if problems:
        more = [f"and {len(problems) - MOST_SHOWN} more"] if len(problems) > MOST_SHOWN else []
        raise ScenarioError(f"sweep {sweep.name}", problems[:MOST_SHOWN] + more)
