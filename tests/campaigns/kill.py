"""Runs of the real command line, stopped at random moments: ``scripts/campaign kill [COUNT] [SEED]``.

At least COUNT (100) times ``fedsim run`` or ``fedsim resume`` is stopped: by kill -9 mostly, by SIGINT or SIGTERM at
times. Each run is of one kind of tests/crash/kinds.py, is stopped up to four times, and must then end like the run of
that kind that nobody disturbed: the same model, rounds, cohorts, clients' state, ledger and summary. At every stop the
ledger holds every round that is recorded. ``python -m tests.campaigns.kill points [EVERY]`` lets runs of all kinds die
at every EVERYth of their operations on disk instead (see tests/crash/forks.py).

A line per run goes to campaigns/kill.jsonl; those that are there are not made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fedsim
from fedsim import cli
from tests.crash.forks import charged
from tests.crash.kinds import KINDS, differences, record, scenario_of

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "campaigns" / "kill.jsonl"
STOPS = 4
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
LONGER = {
    "tree": ("cohort.sampling.groups=6", "rounds=6"),
    "secure tree": ("cohort.sampling.groups=6", "rounds=6"),
    "stopping": ("evaluation.early_stopping={patience=3}", "rounds=20"),
    "folds": ("rounds=6",),
}


class Life:
    """The command line in a fork of this process, so that nobody waits for imports; all else is as in the real one."""

    def __init__(self, said: Path, *words: str) -> None:
        self._said, self._code = said, None
        self.process = os.fork()
        if self.process == 0:
            self._live(list(words))

    def _live(self, words: list[str]) -> None:
        for source, target in ((self._said, 2), (os.devnull, 1)):
            os.dup2(os.open(source, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), target)
        sys.argv, code = ["fedsim", *words], 99
        try:
            cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def holds(self, file: Path) -> bool:
        """Whether it has a file open."""
        with contextlib.suppress(FileNotFoundError):  # closed, or gone, in the meantime
            return any(each.resolve() == file.resolve() for each in Path(f"/proc/{self.process}/fd").iterdir())
        return False

    def worked(self) -> float:
        """For how many seconds it has had a processor; 0 when it is gone."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return int(Path(f"/proc/{self.process}/schedstat").read_text().split()[0]) / 1e9
        return 0.0

    def over(self, options: int = os.WNOHANG) -> bool:
        """Whether it has ended."""
        if self._code is None:
            process, status = os.waitpid(self.process, options)
            self._code = os.waitstatus_to_exitcode(status) if process else None
        return self._code is not None

    def end(self) -> tuple[int, str]:
        """Wait for its end: the exit code, and what it said."""
        self.over(0)
        assert self._code is not None
        return self._code, self._said.read_text()


def begin(scenario: Path, run: Path) -> Life:
    """Start the run or go on with it, and wait until it works."""
    begun = (run / "environment.json").exists()
    words = ("resume", str(run)) if begun else ("run", str(scenario), "--out", str(run))
    life = Life(scenario.with_name("said"), *words, "--quiet")
    while not life.over() and not life.holds(run / ".lock"):
        time.sleep(0.001)
    return life


def undisturbed(scenario: Path, run: Path) -> tuple[dict[str, Any], float]:
    """The record of the run that nobody stops, and for how many seconds of a processor it works."""
    life, seconds = begin(scenario, run), [0.0]
    began = life.worked()
    while not life.over():
        seconds.append(life.worked() - began)
        time.sleep(0.001)
    code, said = life.end()
    if code not in (0, 3):
        raise SystemExit(f"{run}: the undisturbed run failed: {said}")
    return record(run), max(seconds)


def stop(scenario: Path, run: Path, seconds: float, number: int) -> tuple[dict[str, int | None], list[str]]:
    """One life that is stopped after so many seconds of work: how it ended, and what is wrong with that."""
    life = begin(scenario, run)
    until = life.worked() + seconds
    while not life.over() and life.worked() < until:
        time.sleep(0.001)
    if not life.over():
        os.kill(life.process, number)
    code, said = life.end()
    problems = [said] if "Traceback" in said else []
    if code not in (130, 0, 3, -signal.SIGKILL):
        problems.append(f"signal {number}: exit code {code}: {said}")
    if code == 130 and f"fedsim resume {run}" not in said:
        problems.append(f"signal {number}: it does not say how to go on: {said}")
    return {"signal": None if code in (0, 3) else number, "code": code}, problems + uncharged(run)


def uncharged(run: Path) -> list[str]:
    """Rounds that are recorded although no ledger was charged for them."""
    problems = []
    for file in run.rglob("rounds.jsonl"):
        ledger = file.with_name("ledger.db")
        found = charged(ledger) if ledger.exists() else []
        for line in file.read_text().splitlines():
            row = json.loads(line)
            units = [unit for unit in ("example", "client") if row[f"epsilon_{unit}"] is not None and row["cohort"]]
            held = {unit for _, unit, round_, _ in found if round_ == row["round"]}
            problems += [f"round {row['round']} of {file.parent} is not charged ({unit})" for unit in set(units) - held]
    return problems


def case(kind: str, folder: Path, rng: np.random.Generator) -> dict[str, Any]:
    """Stop a run of a kind up to four times, let it finish, and compare."""
    scenario, run = folder / "scenario.toml", folder / "run"
    scenario.write_text(scenario_of(kind, *LONGER.get(kind, ("rounds=12",))).to_toml())
    expected, seconds = undisturbed(scenario, folder / "whole")
    stops, problems = [], []
    for _ in range(STOPS):
        life, wrong = stop(scenario, run, rng.uniform(0.0, 0.5 * seconds), int(rng.choice(SIGNALS)))
        stops.append(life)
        problems += wrong
    code, said = begin(scenario, run).end()
    if code not in (0, 3):
        return {"stops": stops, "problems": [*problems, f"it did not finish: {said}"]}
    differing = differences(expected, record(run))
    if "secure" in kind:  # what is drawn differs, but nothing is missing
        differing = [name for name in differing if name == "files"]
    return {"stops": stops, "problems": problems + [f"{name} differs" for name in differing]}


def main(count: int, seed: int) -> int:
    """Make the cases that are not made yet; returns the exit code."""
    RESULTS.parent.mkdir(exist_ok=True)
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    done = {row["case"]: row for row in map(json.loads, lines) if row["seed"] == seed}
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores it
    with tempfile.TemporaryDirectory() as folder:  # what a process does once is done before the forks
        fedsim.run(scenario_of("both"), Path(folder) / "warm")
    began, number = time.monotonic(), 0
    while sum(kills(row) for row in done.values()) < count or number < len(KINDS):
        if number not in done:
            kind = list(KINDS)[number % len(KINDS)]
            with tempfile.TemporaryDirectory() as folder:
                row = case(kind, Path(folder), np.random.default_rng([seed, number]))
            done[number] = {"seed": seed, "case": number, "kind": kind, **row}
            with RESULTS.open("a") as file:
                file.write(json.dumps(done[number]) + "\n")
            print(f"case {number} of seed {seed}: {kind}, {kills(row)} stops: {row['problems'] or 'good'}", flush=True)
        number += 1
    failures = sum(bool(row["problems"]) for row in done.values())
    stops = sum(kills(row) for row in done.values())
    seconds = time.monotonic() - began
    print(f"{stops} stops in {len(done)} runs of {len(KINDS)} kinds, {failures} failures, {seconds:.0f} seconds")
    return 1 if failures else 0


def kills(row: dict[str, Any]) -> int:
    """How many lives were stopped before they were through."""
    return sum(life["signal"] is not None for life in row["stops"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["points"]:
        with tempfile.TemporaryDirectory() as scratch:
            line = [sys.executable, "-m", "tests.crash.forks", scratch, *(sys.argv[2:3] or ["1"]), *KINDS]
            sys.exit(subprocess.run(line, cwd=ROOT, check=False).returncode)
    wanted, start = [int(word) for word in [*sys.argv[1:], *("100", "0")[len(sys.argv) - 1 :]]]
    sys.exit(main(wanted, start))
