"""How a round of ``tiny`` grows with the cohort and with the population; every point in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.fedsim_engine import FedsimRounds, loop_seconds, make_scenario
from benchmarks.timing import Patience, progress, wait_for_quiet

COHORTS = [(cohort, 20_000) for cohort in (10, 100, 1_000, 10_000)]
POPULATIONS = [(1_000, population) for population in (1_000, 10_000, 100_000, 1_000_000)]
ROUNDS = 5
PATIENCE_SECONDS = 3.0  # twice a point
Point = dict[str, float]


def scaling() -> dict[str, list[Point]]:
    """Both curves."""
    return {"cohort": [point(*each) for each in COHORTS], "population": [point(*each) for each in POPULATIONS]}


def point(cohort: int, population: int) -> Point:
    """One point, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.scaling", str(cohort), str(population)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    measured: Point = json.loads(done.stdout.splitlines()[-1])
    progress(f"  {measured}")
    return measured


def _measure(cohort: int, population: int) -> Point:
    """Seconds a round of the engine and of the whole loop (sampling, ledger, record, checkpoint), and peak memory."""
    scenario = make_scenario("tiny", "auto", False, population, cohort)
    peak: list[float] = []
    wait_for_quiet(Patience(PATIENCE_SECONDS))
    with tempfile.TemporaryDirectory() as folder:
        loop = loop_seconds(scenario, ROUNDS, Path(folder) / "run", lambda: peak.append(_peak_mib()))
    return {
        "cohort": cohort,
        "population": population,
        "engine_seconds": _engine_seconds(FedsimRounds(scenario), cohort, population),
        "loop_seconds": float(np.median(loop)),
        "peak_mib": peak[0],
    }


def _engine_seconds(rounds: FedsimRounds, cohort: int, population: int) -> float:
    rounds.host()
    wait_for_quiet(Patience(PATIENCE_SECONDS))
    times, rng = [], np.random.default_rng(0)
    for number in range(1, ROUNDS + 2):
        clients = np.sort(rng.choice(population, cohort, replace=False)).astype(np.int64)
        began = time.perf_counter()
        rounds.round(number, clients)
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def _peak_mib() -> float:
    """Peak resident memory of this process; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]), int(sys.argv[2]))))
