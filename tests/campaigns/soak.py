"""Soak: thousands of rounds of small runs, in which nothing may grow that should not.

``scripts/campaign soak [ROUNDS] [SEED]`` (2,000 and 0) runs every case of ``CASES`` in a process of its own, with a
checkpoint after every round, and measures from round ``WARM_UP`` to the last: resident memory, processor time of a
round (other programs do not disturb it as they do the clock), open files, threads, and the files of the run directory.
One JSON line per case goes to campaigns/soak.jsonl; a case that is there is not run again.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FILE = Path("campaigns/soak.jsonl")
WARM_UP = 200
LOOK = 10  # rounds between two looks at the files
COMMON = """
rounds = {rounds}
seed = {seed}
[data]
source = "digits"
[population]
clients = 20
partition = {{ kind = "dirichlet", alpha = 0.5, min_size = 3 }}
[model]
name = "mlp"
hidden = [8]
"""
RECORDS = """
[privacy.example]
clip_norm = 0.7
noise_multiplier = 8.0
delta = 1e-4
"""
CLIENTS = """
[privacy.client]
clip_norm = 0.4
noise_multiplier = 20.0
delta = 1e-2
"""
POISSON = '[cohort]\nsampling = { kind = "poisson", rate = 0.5 }\n'
LOCAL = "local = { batch_size = 64, learning_rate = 0.1 }\n"
# Name -> the share of the rounds that it runs, and its scenario.
CASES = {
    "private": (1.0, f'[algorithm]\nname = "fedavg"\n{LOCAL}' + POISSON + RECORDS + CLIENTS),
    "scaffold": (1.0, f'[algorithm]\nname = "scaffold"\n{LOCAL}' + POISSON + RECORDS),
    "async": (
        1.0,
        f'[algorithm]\nname = "fedavg"\n{LOCAL}'
        '[devices]\ncompute = { kind = "lognormal", median = 10.0, sigma = 1.5 }\n'
        '[asynchronous]\nkind = "fedbuff"\nbuffer_size = 3\nconcurrency = 8\n',
    ),
    "ray": (0.1, f'[algorithm]\nname = "scaffold"\n{LOCAL}[engine]\nkind = "ray"\nworkers = 2\n' + POISSON),
}
# What grows with the rounds, a little each; everything else in a run directory must not.
LINEAR = ("rounds.jsonl", "cohorts.bin", "ledger.db")
BYTES_A_ROUND = 10_000  # of which the ledger takes some 350 for each different event
REPORT_BYTES = 3 * 2**20
GROWTH, SLOWER = 1.05, 1.25


class Gauge:
    """Measures a run after every round, of this process and of all that it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.files: dict[int, dict[str, int]] = {}
        self._before = time.perf_counter(), _processor_seconds()

    def on_round(self, row: dict[str, Any]) -> None:
        """Note where things stand after a round."""
        now = time.perf_counter(), _processor_seconds()
        clock, processor = (after - before for after, before in zip(now, self._before, strict=True))
        family = list(_family(os.getpid()))
        self.rows.append(
            {
                "seconds": clock,
                "processor": processor,
                "resident": _resident(os.getpid()),
                "workers": sum(map(_resident, family[1:])),
                "open": len(os.listdir("/proc/self/fd")),
                "threads": len(os.listdir("/proc/self/task")),
            }
        )
        if row["round"] % LOOK == 0:
            self.files[row["round"]] = sizes(self.folder)
        self._before = time.perf_counter(), _processor_seconds()

    def course(self, name: str, start: int, stop: int) -> list[float]:
        """One measure of the rounds from ``start`` to ``stop``."""
        return [row[name] for row in self.rows[start:stop]]


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _family(pid: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))


def _resident(pid: int) -> int:
    """Resident memory of a process in bytes, without what it shares; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile")))


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of a run directory: of each file that may grow, and of all others together."""
    found = dict.fromkeys((*LINEAR, "other"), 0)
    for file in folder.rglob("*"):
        try:
            size = file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:  # it was replaced just then
            continue
        name = file.name.removesuffix("-wal").removesuffix("-shm")
        found[name if name in LINEAR else "other"] += size
    return found


def measure(name: str, rounds: int, seed: int) -> dict[str, Any]:
    """Run one case in this process."""
    import fedsim

    share, text = CASES[name]
    rounds = max(20, int(share * rounds))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        run = Path(folder) / "run"
        gauge = Gauge(run)
        scenario = fedsim.parse_scenario(COMMON.format(rounds=rounds, seed=seed) + text, name)
        result = fedsim.run(scenario, run, gauge.on_round)
        began = time.perf_counter()
        fedsim.build_report(run)
        told = {"report_seconds": round(time.perf_counter() - began, 2)}
        told |= {"report_bytes": (run / "report.html").stat().st_size, "rounds_done": result.summary["rounds"]}
        return {"case": name, "rounds": rounds, "seed": seed, **told, **figures(gauge, rounds)}


def figures(gauge: Gauge, rounds: int) -> dict[str, Any]:
    """What grew, and by how much, from the warm-up to the end."""
    warm = min(WARM_UP, rounds // 4)
    window = min(200, rounds // 4)
    first, last = (warm, warm + window), (rounds - window, rounds)
    ratio = {
        key: statistics.median(gauge.course(key, *last)) / max(1e-9, statistics.median(gauge.course(key, *first)))
        for key in ("resident", "workers", "processor", "seconds")
    }
    counts = {key: [gauge.course(key, *first)[-1], max(gauge.course(key, warm, rounds))] for key in ("open", "threads")}
    half_way = rounds // 2
    half, end = gauge.files[half_way // LOOK * LOOK], gauge.files[rounds // LOOK * LOOK]
    apart = (rounds // LOOK - half_way // LOOK) * LOOK
    return {
        "resident_mib": round(gauge.rows[warm]["resident"] / 2**20, 1),
        **{f"{key}_ratio": round(value, 3) for key, value in ratio.items() if key != "workers" or value},
        "round_ms": round(1000 * statistics.median(gauge.course("seconds", *first)), 2),
        **{key: [int(value) for value in pair] for key, pair in counts.items()},
        "bytes_a_round": {key: round((end[key] - half[key]) / apart, 1) for key in LINEAR},
        "other_ratio": round(max(_other(gauge, half_way, rounds)) / max(_other(gauge, 0, half_way)), 3),
        "directory_bytes": sum(end.values()),
    }


def _other(gauge: Gauge, first: int, last: int) -> list[int]:
    return [size["other"] for round_, size in gauge.files.items() if first < round_ <= last]


def problems(found: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a case's figures, in words."""
    for key in ("resident_ratio", "workers_ratio"):
        if found.get(key, 0) > GROWTH:
            yield f"{key} {found[key]} > {GROWTH}"
    if found["processor_ratio"] > SLOWER:
        yield f"a round takes {found['processor_ratio']} times the processor time at the end"
    for key in ("open", "threads"):
        before, most = found[key]
        if most > before + 2:
            yield f"{key}: from {before} to {most}"
    a_round = found["bytes_a_round"]
    if found["other_ratio"] > GROWTH:
        yield f"files that should keep their size are {found['other_ratio']} times as large in the second half"
    if sum(a_round.values()) > BYTES_A_ROUND:
        yield f"the run directory grew by {sum(a_round.values()):.0f} bytes a round"
    if found["report_bytes"] > REPORT_BYTES:
        yield f"report.html has {found['report_bytes']} bytes"
    if found["rounds_done"] != found["rounds"]:
        yield f"{found['rounds_done']} of {found['rounds']} rounds were run"


def _done() -> dict[tuple[str, int, int], dict[str, Any]]:
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    return {(row["case"], row["asked"], row["seed"]): row for row in map(json.loads, lines)}


def _case(name: str, rounds: int, seed: int) -> dict[str, Any]:
    """Measure a case in a fresh process."""
    command = [sys.executable, "-m", "tests.campaigns.soak", "--case", name, str(rounds), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return {"case": name, "seed": seed, "problems": [f"exit code {done.returncode}: {' '.join(command)}"]}
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "problems": list(problems(found))}


def main(arguments: list[str]) -> int:
    """Run the cases that are not done yet; returns the exit code."""
    if arguments[:1] == ["--case"]:
        print(json.dumps(measure(arguments[1], int(arguments[2]), int(arguments[3]))))
        return 0
    rounds, seed = (int(value) for value in (*arguments, *("2000", "0")[len(arguments) :]))
    began, done, failures = time.perf_counter(), _done(), 0
    cases = [name for name in CASES if name != "ray" or find_spec("ray") is not None]
    for number, name in enumerate(cases, 1):
        found = done.get((name, rounds, seed))
        if found is None:
            found = _case(name, rounds, seed) | {"asked": rounds}
            FILE.parent.mkdir(exist_ok=True)
            with FILE.open("a") as file:
                file.write(json.dumps(found) + "\n")
        failures += bool(found["problems"])
        print(f"[{number}/{len(cases)}] {json.dumps(found)}", flush=True)
    print(f"soak: {len(cases)} cases, {failures} failures, {time.perf_counter() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
