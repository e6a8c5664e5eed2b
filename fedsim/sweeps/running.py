"""Running a sweep from Python: ``fedsim.sweep``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput, FedsimError
from fedsim.jsonable import jsonable
from fedsim.paths import dated
from fedsim.sweeps.outcome import outcome
from fedsim.sweeps.preparing import cores, prepared
from fedsim.sweeps.record import SweepDirectory, unbegun
from fedsim.sweeps.result import SweepResult
from fedsim.sweeps.runner import Runner, Watcher
from fedsim.sweeps.search import PROPOSERS
from fedsim.sweeps.settings import Sweep, load_sweep
from fedsim.sweeps.trials import Trial

Json = dict[str, Any]


class Stopped(FedsimError):
    """A sweep was stopped by the user; it can be resumed."""

    exit_code = 130


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
        if overrides:
            raise BadInput(f"--set {overrides[0]}: a sweep that has begun cannot be changed; begin another one.")
        if not resume or out is not None:
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
    plan = prepared(wanted)
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


def _run(plan: Sweep, directory: SweepDirectory, watcher: Watcher) -> SweepResult:
    from fedsim.report.frontier.inputs import SweepRecord
    from fedsim.report.frontier.looking import facts
    from fedsim.report.frontier.page import write_frontier
    from fedsim.report.frontier.view import view_of

    threads = max(1, cores() // (plan.search.parallel or 1))
    runner = Runner(plan, directory, threads, watcher)
    try:
        _search(plan, runner, watcher)
    finally:
        runner.close()
    rows = sorted(runner.final.values(), key=lambda row: (row["trial"], row["seed"]))
    directory.write_table(rows)
    summary = jsonable(outcome(plan, rows, plan.search.objectives, directory.path))
    view = view_of(SweepRecord(directory.path, summary, jsonable(rows)))
    summary["cost_of_looking"] = jsonable(facts(view))
    directory.write("sweep.json", json.dumps(summary, indent=1) + "\n")
    write_frontier(view)
    return SweepResult(directory.path, summary, jsonable(rows))


def _search(plan: Sweep, runner: Runner, watcher: Watcher) -> None:
    """Batch after batch: what is proposed hangs on nothing but the results of the earlier ones."""
    trials: list[Trial] = []
    while batch := PROPOSERS[plan.search.method](plan, trials, runner.scores(trials)):
        planned = plan.search.trials if plan.search.method == "tpe" else len(batch)
        watcher.on_plan((planned or 0) * len(plan.search.seeds))
        runner.run(batch)
        trials += batch
