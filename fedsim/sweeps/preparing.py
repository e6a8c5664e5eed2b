"""What is decided and checked before a sweep begins: its objectives, its workers, and that its settings can run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import BadInput
from fedsim.sweeps.halving import rungs
from fedsim.sweeps.objectives import COSTS
from fedsim.sweeps.runner import resolved
from fedsim.sweeps.search import PROPOSERS, random_values
from fedsim.sweeps.settings import Sweep, load_sweep
from fedsim.sweeps.trials import Trial, check_trials, distinct, scenario_of

if TYPE_CHECKING:
    from fedsim.federation import Federation

MOST_TRIED = 100


def prepared(wanted: Sweep) -> Sweep:
    """The sweep with its objectives and the number of workers decided; raises ``BadInput`` for what cannot be run."""
    search = wanted.search
    if search.method == "tpe":
        from fedsim.sweeps.tpe import require_optuna

        require_optuna()
    trials = [] if search.method == "tpe" else PROPOSERS[search.method](wanted, [], {})
    check_trials(wanted, trials)
    plan = resolved(wanted, _objectives(wanted, trials), search.parallel or min(cores(), _count(wanted, trials)))
    if search.method == "tpe":
        check_trials(plan, PROPOSERS["tpe"](plan, [], {}))
    return plan


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_sweep(source: str | Path, overrides: Iterable[str] = ()) -> str:
    """What a sweep file would run, in a sentence; raises ``BadInput`` where ``fedsim sweep`` would refuse it."""
    plan = prepared(load_sweep(source, overrides))
    search = plan.search
    trials = [] if search.method == "tpe" else PROPOSERS[search.method](plan, [], {})
    settings = f"{len(trials)} settings" if trials else f"at most {search.trials} settings"
    objectives = ", ".join(search.objectives)
    return (
        f"{source}: good. {settings} x {len(search.seeds)} seeds = {_count(plan, trials)} runs, {search.parallel} at "
        f"once; method {search.method}, objective {objectives}, selection {search.selection}."
    )


def _count(plan: Sweep, trials: list[Trial]) -> int:
    """How many runs there will be."""
    return (len(trials) or plan.search.trials or 0) * len(plan.search.seeds)


def _objectives(plan: Sweep, trials: list[Trial]) -> tuple[str, ...]:
    """The objectives; raises ``BadInput`` for one that the runs do not measure, and for halving that gives up none."""
    from fedsim.evaluation import assess

    federation = _first(plan, trials)
    halving, rounds = plan.search.halving, federation.scenario.rounds
    if halving is not None and not rungs(halving, rounds):
        raise BadInput(
            f"sweep.halving.first_rounds = {halving.first_rounds}: must be below rounds = {rounds}, or no setting is "
            "ever given up."
        )
    measured = list(assess(federation, federation.start).metrics)
    for name in plan.search.objectives:
        if name == "seconds":
            raise BadInput('sweep.objective = "seconds": no two runs take the same time; use "simulated_seconds".')
        if name not in (*measured, *COSTS):
            near = difflib.get_close_matches(name, [*measured, *COSTS], n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join([*measured, *COSTS])}"
            raise BadInput(f'sweep.objective = "{name}": the runs do not measure it ({hint}).')
    return plan.search.objectives or (federation.task.objective.main_metric,)


def _first(plan: Sweep, trials: list[Trial]) -> Federation:
    """The first setting that can be set up: one that cannot is a failed run of the sweep, wherever it stands.

    Raises ``BadInput`` with the first one's reason where none can.
    """
    from fedsim.federation import build_federation

    drawn = distinct(random_values(plan, number) for number in range(MOST_TRIED))
    refused: list[str] = []
    for trial in islice(trials or drawn, MOST_TRIED):
        try:
            return build_federation(scenario_of(plan, trial, plan.search.seeds[0], 1))
        except BadInput as error:
            refused.append(f"{trial.label()}: {error}")
    raise BadInput(f"No setting can be set up; the first, {refused[0]}")
