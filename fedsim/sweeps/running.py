"""Running a sweep from Python: ``fedsim.sweep``."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput, FedsimError
from fedsim.evaluation import assess
from fedsim.federation import build_federation
from fedsim.jsonable import jsonable
from fedsim.paths import dated
from fedsim.sweeps.objectives import COSTS
from fedsim.sweeps.outcome import outcome
from fedsim.sweeps.record import SweepDirectory, unbegun
from fedsim.sweeps.runner import Runner, Watcher, resolved
from fedsim.sweeps.search import PROPOSERS, grid, random_values
from fedsim.sweeps.settings import Sweep, load_sweep
from fedsim.sweeps.trials import Trial, check_trials, distinct, scenario_of

Json = dict[str, Any]


class Stopped(FedsimError):
    """A sweep was stopped by the user; it can be resumed."""

    exit_code = 130


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: its directory, its ``sweep.json`` as a dict, and a line for every run."""

    directory: Path
    summary: Json
    rows: list[Json]

    @property
    def exit_code(self) -> int:
        """What ``fedsim sweep`` exits with: 1 where every run failed."""
        return int(all(row["status"] == "failed" for row in self.rows))


def sweep(
    source: str | Path,
    out: str | Path | None = None,
    resume: bool = False,
    overrides: Iterable[str] = (),
    watcher: Watcher | None = None,
    *,
    retry_failed: bool = False,
) -> SweepResult:
    """Run a sweep file; ``out`` is its directory (default ``sweeps/<name>-<time>``), new unless with ``resume``.

    With ``resume``, ``source`` may be the directory of a sweep that was stopped: what ended is not run again, what was
    interrupted goes on, and with ``retry_failed`` what failed too. ``overrides`` are set in the base scenario. Raises
    ``BadInput`` before anything is written; a run that fails is a line of the record. Raises ``Stopped`` after Ctrl-C.
    """
    if retry_failed and not resume:
        raise BadInput("--retry-failed: only with --resume; in a sweep that begins nothing has failed.")
    directory, plan = _opened(Path(source), Path(out) if out is not None else None, resume, list(overrides))
    try:
        if retry_failed:
            _forget_failed(plan, directory)
        return _run(plan, directory, watcher or Watcher())
    except KeyboardInterrupt as error:
        raise Stopped(f"Stopped. Go on with: fedsim sweep {directory.path} --resume") from error
    finally:
        directory.close()


def _forget_failed(plan: Sweep, directory: SweepDirectory) -> None:
    """Raises ``BadInput`` where failures decided what was run after them, which cannot be taken back."""
    adaptive = "TPE" if plan.search.method == "tpe" else "halving" if plan.search.halving is not None else None
    if adaptive is not None:
        raise BadInput(f"--retry-failed: {adaptive} chose later runs by what had failed; begin another sweep.")
    directory.forget_failed()


def _opened(source: Path, out: Path | None, resume: bool, overrides: list[str]) -> tuple[SweepDirectory, Sweep]:
    """The sweep's directory, made or found, and the sweep."""
    if source.is_dir():
        if not resume or out is not None or overrides:
            raise BadInput(f"{source} is a directory; go on with the sweep in it by: fedsim sweep {source} --resume")
        plan = load_sweep(source)
        return SweepDirectory.open(source), plan
    if resume and out is None:
        raise BadInput("--resume: name the sweep's directory to go on with, as SWEEP or by --out.")
    wanted = load_sweep(source, overrides)
    begun = out is not None and out.exists() and not (resume and unbegun(out))
    if out is not None and begun and resume:
        plan = _same(wanted, load_sweep(out), out)
        return SweepDirectory.open(out), plan
    if begun:
        raise BadInput(f"The sweep's directory {out} exists already; name another, or use --resume.")
    plan = _prepared(wanted)
    path = out if out is not None else next(path for path in dated(f"sweeps/{plan.name}") if not path.exists())
    return SweepDirectory.create(path, plan), plan


def _same(wanted: Sweep, stored: Sweep, path: Path) -> Sweep:
    """The stored sweep; raises ``BadInput`` where another one is wanted, which would silently be ignored."""
    search = wanted.search
    objective = search.objectives or stored.search.objectives
    open_ones = replace(search, objective=objective, parallel=search.parallel or stored.search.parallel)
    if replace(wanted, search=open_ones).to_toml() != stored.to_toml() or wanted.base != stored.base:
        raise BadInput(
            f"{path} holds another sweep than the one that is wanted. Name another --out, or go on with: fedsim sweep "
            f"{path} --resume"
        )
    return stored


def _prepared(wanted: Sweep) -> Sweep:
    """The sweep with its objectives and the number of workers decided, and all that can be checked beforehand."""
    search = wanted.search
    trials = [] if search.method == "tpe" else PROPOSERS[search.method](wanted, [], {})
    check_trials(wanted, trials)
    plan = resolved(wanted, _objectives(wanted), search.parallel or min(_cores(), _count(wanted, trials)))
    if search.method == "tpe":
        check_trials(plan, PROPOSERS["tpe"](plan, [], {}))
    return plan


def _count(plan: Sweep, trials: list[Trial]) -> int:
    """How many runs there will be."""
    return (len(trials) or plan.search.trials or 0) * len(plan.search.seeds)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _objectives(plan: Sweep) -> tuple[str, ...]:
    """The objectives; raises ``BadInput`` for one that the first setting's runs do not measure, or if it cannot run."""
    first = grid(plan, [], {})[0] if plan.search.method == "grid" else next(distinct([random_values(plan, 0)]))
    federation = build_federation(scenario_of(plan, first, plan.search.seeds[0], 1))
    measured = list(assess(federation, federation.start).metrics)
    for name in plan.search.objectives:
        if name == "seconds":
            raise BadInput('sweep.objective = "seconds": no two runs take the same time; use "simulated_seconds".')
        if name not in (*measured, *COSTS):
            near = difflib.get_close_matches(name, [*measured, *COSTS], n=1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join([*measured, *COSTS])}"
            raise BadInput(f'sweep.objective = "{name}": the runs do not measure it ({hint}).')
    return plan.search.objectives or (federation.task.objective.main_metric,)


def _run(plan: Sweep, directory: SweepDirectory, watcher: Watcher) -> SweepResult:
    threads = max(1, _cores() // (plan.search.parallel or 1))
    runner = Runner(plan, directory, threads, watcher)
    try:
        _search(plan, runner, watcher)
    finally:
        runner.close()
    rows = sorted(runner.final.values(), key=lambda row: (row["trial"], row["seed"]))
    directory.write_table(rows)
    summary = jsonable(outcome(plan, rows, plan.search.objectives, directory.path))
    directory.write("sweep.json", json.dumps(summary, indent=1) + "\n")
    _report(directory.path)
    return SweepResult(directory.path, summary, jsonable(rows))


def _search(plan: Sweep, runner: Runner, watcher: Watcher) -> None:
    """Batch after batch: what is proposed hangs on nothing but the results of the earlier ones."""
    trials: list[Trial] = []
    while batch := PROPOSERS[plan.search.method](plan, trials, runner.scores(trials)):
        planned = plan.search.trials if plan.search.method == "tpe" else len(batch)
        watcher.on_plan((planned or 0) * len(plan.search.seeds))
        runner.run(batch)
        trials += batch


def _report(path: Path) -> None:
    if importlib.util.find_spec("fedsim.report.frontier") is not None:
        importlib.import_module("fedsim.report.frontier").build_frontier(path)
