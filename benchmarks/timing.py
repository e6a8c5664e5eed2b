"""Fair times on a machine that is not ours alone: engines take turns, and a run that others disturbed is repeated."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.2  # a run is as many rounds as last this long
LOOK_SECONDS = 0.15
FOREIGN_CORES = 0.2  # more than this share of a core taken by others is a disturbance
SLOW_SECONDS = 2.0  # rounds from here on are warmed up once, not twice
TICKS = os.sysconf("SC_CLK_TCK")


class EngineFailed(Exception):
    """An engine cannot go on, or does other work than the plain loop; the text says why."""


@dataclass(frozen=True)
class Engine:
    """``run(n)`` runs n rounds and returns their seconds a round."""

    name: str
    run: Callable[[int], float]


@dataclass
class Patience:
    """How many seconds may still be spent on waiting for a quiet machine and on repeating disturbed runs."""

    seconds: float


def progress(text: str) -> None:
    """A line for whoever watches."""
    print(text, file=sys.stderr, flush=True)


def busy_seconds() -> float:
    """CPU seconds that the whole machine has worked so far; 0 where the system does not tell."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0.0
    values = [int(value) for value in file.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(values) - values[3] - values[4]) / TICKS


def own_seconds() -> float:
    """CPU seconds of this process and of all that descend from it."""
    parents, seconds = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        seconds[int(folder.name)] = sum(int(value) for value in fields[11:15]) / TICKS
    return sum(value for process, value in seconds.items() if _descends(process, parents))


def _descends(process: int, parents: dict[int, int]) -> bool:
    while process > 1 and process != os.getpid():
        process = parents.get(process, 0)
    return process == os.getpid()


def wait_for_quiet(patience: Patience) -> None:
    """Wait until others leave the machine alone, or patience ends."""
    while patience.seconds > 0:
        busy, own, began = busy_seconds(), own_seconds(), time.perf_counter()
        time.sleep(LOOK_SECONDS)
        seconds = time.perf_counter() - began
        foreign = (busy_seconds() - busy) - (own_seconds() - own)
        if foreign < FOREIGN_CORES * seconds:
            return
        patience.seconds -= seconds


def measure(engine: Engine, rounds: int, patience: Patience) -> float:
    """Seconds a round of one run; disturbed runs are repeated while patience lasts, and the least disturbed counts."""
    runs: list[tuple[float, float]] = []
    while True:
        wait_for_quiet(patience)
        busy, own, began = busy_seconds(), own_seconds(), time.perf_counter()
        result = engine.run(rounds)
        seconds = time.perf_counter() - began
        foreign = ((busy_seconds() - busy) - (own_seconds() - own)) / seconds
        runs.append((foreign, result))
        patience.seconds -= seconds if foreign > FOREIGN_CORES else 0.0
        if foreign <= FOREIGN_CORES or patience.seconds <= 0:
            return min(runs)[1]


def warm_up(engine: Engine) -> int:
    """Run an engine's first rounds; how many rounds make one run."""
    seconds = engine.run(1)
    if seconds < SLOW_SECONDS:
        seconds = engine.run(1)
    progress(f"  {engine.name}: {seconds:.4g} s a round in the warm-up")
    return max(1, round(SAMPLE_SECONDS / seconds + 0.5))


def interleave(engines: list[Engine], repetitions: int, patience: Patience, limit: float) -> dict[str, list[float]]:
    """Seconds a round of every run by engine: in each repetition every engine runs once, in turn.

    After ``limit`` seconds no further repetition begins, but one is always made.
    """
    rounds = {engine.name: warm_up(engine) for engine in engines}
    runs: dict[str, list[float]] = {engine.name: [] for engine in engines}
    began = time.perf_counter()
    for repetition in range(repetitions):
        if repetition >= 1 and time.perf_counter() - began > limit:
            break
        for engine in [engine for engine in engines if engine.name in runs]:
            try:
                runs[engine.name].append(measure(engine, rounds[engine.name], patience))
            except EngineFailed as error:
                progress(f"  {engine.name} is left out: {error}")
                del runs[engine.name]
        progress(f"  repetition {repetition + 1} of {repetitions} done")
    return runs
