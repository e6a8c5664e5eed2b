"""The command: ``scripts/bench --help``."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.engines import Choices, own_engines, peer_engines
from benchmarks.peers import PEERS, PeerProcess
from benchmarks.scaling import scaling
from benchmarks.table import ratio_table, scaling_table, seconds_table
from benchmarks.timing import Engine, EngineFailed, Patience, interleave, progress
from benchmarks.workloads import WORKLOADS, make_data

PATIENCE_SECONDS = 10.0  # a workload, for waiting and repeating
LIMIT_SECONDS = 25.0  # a workload, after which no repetition begins
REPETITIONS = 5
QUICK_REPETITIONS = 2


@dataclass(frozen=True)
class Plan:
    """How many repetitions a workload gets, and the seconds after which none begins."""

    repetitions: int
    limit_seconds: float


def main() -> None:
    """Measure, print the tables, write the JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that peers are ended
    options = _options()
    choices: Choices = {}
    peers = start_peers(options.peers, options.workloads)
    try:
        # Who names a number gets it, however long it takes.
        plan = Plan(options.repetitions, math.inf) if options.repetitions else Plan(REPETITIONS, LIMIT_SECONDS)
        results = {name: bench(name, peers, plan, choices) for name in options.workloads}
    finally:
        for process in peers:
            process.close()
    curves = scaling() if options.scaling else None
    show(results, curves, choices)
    if options.json:
        document = results | ({"scaling": curves} if curves else {}) | {"machine": machine()}
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Rounds of fedsim and others, timed in turn.")
    parser.add_argument("--json", metavar="FILE", help="write the results")
    parser.add_argument("--workloads", type=_names(WORKLOADS), default=list(WORKLOADS), metavar="NAME,NAME")
    parser.add_argument("--peers", type=_names(PEERS), default=[], metavar="NAME,NAME", help="flower, pfl")
    parser.add_argument("--repetitions", type=int, metavar="N", help="default: up to 5 in 25 s a workload")
    parser.add_argument("--scaling", action="store_true", help="also curves over cohort and population")
    parser.add_argument("--quick", action="store_true", help="tiny alone, two repetitions")
    options = parser.parse_args()
    if options.repetitions is not None and options.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    if options.quick:
        options.workloads, options.repetitions = ["tiny"], QUICK_REPETITIONS
    return options


def _names(known: dict[str, Any]) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return names

    return parse


def start_peers(names: list[str], workloads: list[str]) -> list[PeerProcess]:
    """The peers that can be installed; the others are named."""
    running = []
    for name in names:
        progress(f"{name}: installing at first use, starting")
        try:
            running.append(PeerProcess(PEERS[name], workloads))
        except (EngineFailed, OSError) as error:
            progress(f"{name} is left out: {error}")
    return running


def bench(workload: str, peers: list[PeerProcess], plan: Plan, choices: Choices) -> dict[str, Any]:
    """One workload's results by engine."""
    progress(f"{workload}:")
    engines = own_engines(workload, make_data(workload), choices)
    for process in list(peers):
        try:
            engines += peer_engines(workload, process, choices)
        except EngineFailed as error:
            progress(f"{process.peer.name} is left out from here on: {error}")
            peers.remove(process)
            process.close()
    return _summary(engines, plan)


def _summary(engines: list[Engine], plan: Plan) -> dict[str, Any]:
    runs = interleave(engines, plan.repetitions, Patience(PATIENCE_SECONDS), plan.limit_seconds)
    return {name: {"seconds_per_round": statistics.median(times), "runs": times} for name, times in runs.items()}


def show(results: dict[str, Any], curves: dict[str, Any] | None, choices: Choices) -> None:
    """Print the tables."""
    print(ratio_table(results), seconds_table(results), sep="\n\n")
    for curve in (curves or {}).values():
        print("", scaling_table(curve), sep="\n")
    for name, choice in choices.items():
        progress(f"{name}: {choice} was quickest")


def machine() -> dict[str, Any]:
    """What the times were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
