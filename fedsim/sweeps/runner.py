"""Makes a sweep's runs, in batches that are run whole or by successive halving, and keeps its record."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from fedsim.errors import BadInput
from fedsim.jsonable import jsonable
from fedsim.sweeps.entry import entry, failure, with_units
from fedsim.sweeps.halving import at_rung, rungs, survivors
from fedsim.sweeps.objectives import UNITS, means
from fedsim.sweeps.pool import Answer, Job, Pool, Workers
from fedsim.sweeps.record import SweepDirectory
from fedsim.sweeps.search import Scores
from fedsim.sweeps.settings import Sweep
from fedsim.sweeps.trials import Task, Trial, scenario_of

Json = dict[str, Any]
TRIALS, RUNGS = "trials.jsonl", "rungs.jsonl"


class Watcher:
    """Is told how a sweep goes; this one does not care."""

    def on_plan(self, runs: int) -> None:
        """So many runs are planned in all."""

    def on_kept(self, rows: Iterable[Json]) -> None:
        """These runs ended before this process began."""

    def on_round(self, task: Task, share: float) -> None:
        """A run is through so much of its rounds."""

    def on_row(self, row: Json) -> None:
        """A run ended."""


def units_of(sweep: Sweep) -> list[str]:
    """The units that are protected in some setting."""
    privacy = sweep.base.get("privacy", {})
    return [unit for unit in UNITS if unit in privacy or any(key.startswith(f"privacy.{unit}") for key in sweep.space)]


class Runner:
    """The runs of one sweep: which ended, which are paused at a rung, and the workers that make the others."""

    def __init__(self, sweep: Sweep, directory: SweepDirectory, threads: int, watcher: Watcher) -> None:
        self.sweep, self.directory, self.watcher, self._threads = sweep, directory, watcher, threads
        self._units = units_of(sweep)
        self.final = {(row["trial"], row["seed"]): row for row in directory.rows(TRIALS)}
        self._paused = {(row["trial"], row["seed"], row["rounds"]): row for row in directory.rows(RUNGS)}
        count = sweep.search.parallel or 1
        self._pool = Pool(Workers(count, threads, directory.path, directory.lock))
        watcher.on_kept(self.final.values())

    def close(self) -> None:
        """End the workers, whatever they do."""
        self._pool.close()

    def scores(self, trials: Iterable[Trial]) -> Scores:
        """Each setting's objectives as means over seeds; None where one failed."""
        return {trial.number: means(self._rows(trial), self.sweep.search.objectives) for trial in trials}

    def _rows(self, trial: Trial) -> list[Json]:
        keys = [(trial.number, seed) for seed in self.sweep.search.seeds]
        return [self.final[key] for key in keys if key in self.final]

    def run(self, trials: list[Trial]) -> None:
        """Make all runs of these settings that have not ended."""
        halving, alive = self.sweep.search.halving, trials
        if halving is not None and trials:
            rounds = self._scenario(trials[0], self.sweep.search.seeds[0]).rounds
            for rung in rungs(halving, rounds):
                alive = self._rung(alive, rung)
        self._make(alive, None)

    def _rung(self, trials: list[Trial], rung: int) -> list[Trial]:
        """Take these settings to a rung, and give up all but the best."""
        halving = self.sweep.search.halving
        assert halving is not None
        self._make(trials, rung)
        ours = {trial.number for trial in trials}
        paused, final = (
            [row for row in rows if row["trial"] in ours] for rows in (self._paused.values(), self.final.values())
        )
        lines = at_rung(paused, final, rung)
        kept = survivors(lines, self.sweep.search.objectives[0], halving.factor)
        for row in (row for number, rows in lines.items() if number not in kept for row in rows):
            if (row["trial"], row["seed"]) not in self.final:
                self._end(row | {"status": "pruned"})
        return [trial for trial in trials if trial.number in kept]

    def _make(self, trials: list[Trial], until: int | None) -> None:
        for answer in self._pool.run(self._jobs(trials, until), self._on_round):
            self._note(answer)

    def _jobs(self, trials: list[Trial], until: int | None) -> Iterator[Job]:
        for trial in trials:
            for seed in self.sweep.search.seeds:
                key = (trial.number, seed)
                self._check(trial, self.final.get(key))
                if key not in self.final and (*key, until) not in self._paused:
                    yield from self._job(Task(trial, seed, until))

    def _check(self, trial: Trial, row: Json | None) -> None:
        """Raise ``BadInput`` if a line of the record is of other settings than its number stands for."""
        if row is not None and row["values"] != jsonable(trial.values):
            raise BadInput(
                f"{self.directory.path}: {row['run']} ran with {json.dumps(row['values'])}, but its number stands for "
                f"{json.dumps(jsonable(trial.values))}. The sweep's own files were changed, or another version of "
                "Optuna proposes other settings: put them back, or begin another sweep."
            )

    def _job(self, task: Task) -> Iterator[Job]:
        """The job of a run; without one, its failure is noted."""
        try:
            scenario = self._scenario(task.trial, task.seed)
        except BadInput as error:
            self._end(failure(task, str(error)))
            return
        run, name = str(self.directory.run(task.name)), self.sweep.name
        order = {"run": run, "scenario": scenario.to_toml(), "name": name, "until": task.until}
        yield Job((task, scenario.rounds), order)

    def _scenario(self, trial: Trial, seed: int) -> Any:
        return scenario_of(self.sweep, trial, seed, self._threads)

    def _on_round(self, job: Job, round_: int) -> None:
        task, rounds = job.key
        self.watcher.on_round(task, round_ / rounds)

    def _note(self, answer: Answer) -> None:
        """Record how a run ended, or that it is paused."""
        task, _ = answer.job.key
        if answer.summary is None:
            self._end(failure(task, answer.error or ""))
            return
        # As a sweep that goes on would read it, so that a NaN is the same to both.
        row = jsonable(with_units(entry(task, self.directory.run(task.name), answer.summary), self._units))
        if row["status"] == "interrupted":
            self.directory.append(RUNGS, row)
            self._paused[row["trial"], row["seed"], row["rounds"]] = row
        else:
            self._end(row)

    def _end(self, row: Json) -> None:
        self.directory.append(TRIALS, row)
        self.final[row["trial"], row["seed"]] = row
        self.watcher.on_row(row)


def resolved(sweep: Sweep, objectives: tuple[str, ...], parallel: int) -> Sweep:
    """The sweep with everything that was left open decided."""
    return replace(sweep, search=replace(sweep.search, objective=objectives, parallel=parallel))
