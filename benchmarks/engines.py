"""Every engine on a workload, ready to be timed."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.fedsim_engine import FedsimRounds, make_scenario
from benchmarks.peers import PeerProcess
from benchmarks.plain import BareRounds, PlainRounds, difference, in_order, mean_update
from benchmarks.private import MODES, OpacusRounds
from benchmarks.timing import Engine, EngineFailed, progress
from benchmarks.workloads import draw_cohort, seeded_model

TOLERANCE = 1e-4
TRIAL_CLIENTS = 5
TRIAL_SECONDS = 0.5
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Data = tuple[Tensor, Tensor]
Choices = dict[str, str]


def local(name: str, threads: int, step: Callable[[int], Any], before: Callable[[], None] = lambda: None) -> Engine:
    """An engine in this process; ``before`` is not timed."""
    numbers = itertools.count(1)

    def run(rounds: int) -> float:
        torch.set_num_threads(threads)
        before()
        began = time.perf_counter()
        for _ in range(rounds):
            step(next(numbers))
        return (time.perf_counter() - began) / rounds

    return Engine(name, run)


def own_engines(workload: str, data: Data, choices: Choices) -> list[Engine]:
    """The engines that need nothing beyond the project's own environment."""
    engines = [
        local("plain", 1, PlainRounds(workload, *data).round),
        local("bare", 1, BareRounds(workload, *data).round),
    ]
    for private in (False, True):
        for name, trainer in (("fedsim", "auto"), ("fedsim-torch", "vectorised")):
            engines.append(_fedsim(name + "-dp" * private, workload, trainer, private))
    return [*engines, _opacus(workload, data, choices)]


def _fedsim(name: str, workload: str, trainer: str, private: bool) -> Engine:
    rounds = FedsimRounds(make_scenario(workload, trainer, private))

    def step(number: int) -> Tensor:
        return rounds.round(number, draw_cohort(workload, number))

    return local(name, CORES, step, rounds.host)


def _opacus(workload: str, data: Data, choices: Choices) -> Engine:
    """Opacus in the mode and with the threads in which a few clients are quickest."""
    _check_opacus(workload, data)
    trials = {}
    for mode in MODES:
        rounds = OpacusRounds(workload, mode, data)
        for threads in {1, min(2, CORES)}:
            trial = local(mode, threads, lambda number, rounds=rounds: rounds.clients(list(range(TRIAL_CLIENTS))))
            trial.run(1)
            trials[mode, threads] = _best_seconds(trial)
    mode, threads = min(trials, key=lambda key: trials[key])
    choices[f"opacus on {workload}"] = f"{mode}, {threads} thread(s)"
    return local("opacus", threads, OpacusRounds(workload, mode, data).round)


def _best_seconds(trial: Engine) -> float:
    """The least of many short runs, of few long ones: a disturbed trial must not make a slow mode look best."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < TRIAL_SECONDS:
        times.append(trial.run(1))
    return min(times)


def _check_opacus(workload: str, data: Data) -> None:
    """Without clipping, noise and dropout every mode must do the plain loop's work."""
    module = seeded_model(workload, dropout=False)
    start = [p.detach().clone() for p in module.parameters()]
    expected = mean_update(module, start, [in_order(data[0][0], data[1][0])])
    for mode in MODES:
        _check(f"opacus, {mode}", difference(OpacusRounds(workload, mode, data, exact=True).clients([0]), expected))


def _check(name: str, distance: float) -> None:
    if not distance < TOLERANCE:
        raise EngineFailed(f"{name}: its update differs from the plain loop's by {distance:.2g}")


def peer_engines(workload: str, process: PeerProcess, choices: Choices) -> list[Engine]:
    """The engines of one peer; raises ``EngineFailed`` if its work is not the plain loop's."""
    name = process.peer.name
    distance = process.difference(workload, "plain")
    _check(name, distance)
    progress(f"  {name}: one round's update is within {distance:.1g} of the plain loop's")
    engines = [_peer(name, process, workload, "plain")]
    if name == "flower":
        mode = _best_mode(process, workload)
        choices[f"flower-opacus on {workload}"] = mode
        engines.append(_peer("flower-opacus", process, workload, mode))
    return engines


def _best_mode(process: PeerProcess, workload: str) -> str:
    seconds = {}
    for mode in MODES:
        _check(f"flower-opacus, {mode}", process.difference(workload, mode))  # this is its warm-up, too
        seconds[mode] = process.seconds(workload, mode)
    return min(seconds, key=lambda mode: seconds[mode])


def _peer(name: str, process: PeerProcess, workload: str, mode: str) -> Engine:
    def run(rounds: int) -> float:
        return sum(process.seconds(workload, mode) for _ in range(rounds)) / rounds

    return Engine(name, run)
