"""fedsim as it delivers a round, Flower messages in and summed update out: the only file here that uses fedsim."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import workloads
from fedsim.algorithms import FedAvg, LocalTraining
from fedsim.client import app, host
from fedsim.data.dataset import Dataset, Examples
from fedsim.engines import InProcessGrid
from fedsim.engines.inprocess import NODE
from fedsim.federation import Federation, build_federation
from fedsim.messages import TrainJob, TrainReply, pack_job, unpack_reply
from fedsim.models.custom import Custom
from fedsim.population import Population
from fedsim.privacy.sampling import Fixed
from fedsim.running import run
from fedsim.scenario import (
    Cohort,
    EngineSettings,
    Evaluation,
    ExamplePrivacy,
    PopulationSettings,
    Privacy,
    Scenario,
)

DELTA = 1e-3
TEST_EXAMPLES = 100  # nothing is evaluated
NEVER = 10**6


@dataclass(frozen=True)
class BenchmarkData:
    """A data source in the place of the scenario's: a workload's records, those of ``owners`` clients."""

    workload: str
    owners: int
    source: str = "benchmark"

    def load(self, seed: int) -> Dataset:
        """The data set; the workload has a seed of its own."""
        return _dataset(self.workload, self.owners)


@dataclass(frozen=True)
class Consecutive:
    """A partition in the place of the scenario's: client c owns the next 50 records; past the last, the first again."""

    kind: str = "consecutive"

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Two arrays, whatever the number of clients."""
        indices = np.arange(clients * workloads.EXAMPLES, dtype=np.int64) % len(examples)
        return Population(indices, np.arange(clients + 1, dtype=np.int64) * workloads.EXAMPLES)


@cache
def _dataset(workload: str, owners: int) -> Dataset:
    features, labels = (part.flatten(0, 1).numpy() for part in workloads.make_data(workload, owners))
    classes = tuple(str(label) for label in range(workloads.CLASSES))
    return Dataset(Examples(features, labels), Examples(features[:TEST_EXAMPLES], labels[:TEST_EXAMPLES]), classes)


def make_scenario(
    workload: str, trainer: str, private: bool, clients: int = workloads.CLIENTS, cohort: int | None = None
) -> Scenario:
    """The workload as a scenario; ``clients`` beyond the workload's share its records."""
    local = LocalTraining(epochs=1, batch_size=workloads.BATCH, learning_rate=workloads.LEARNING_RATE)
    example = ExamplePrivacy(
        clip_norm=workloads.CLIP_NORM, noise_multiplier=workloads.NOISE_MULTIPLIER, delta=DELTA
    )  # a rate of 10 / 50 and 5 steps follow from the batch size
    return Scenario(
        name=workload,
        rounds=NEVER,
        data=BenchmarkData(workload, workloads.CLIENTS),
        population=PopulationSettings(clients=clients, partition=Consecutive()),
        model=Custom(name="benchmarks.workloads:build_model", settings={"workload": workload}),
        algorithm=FedAvg(local=local),
        cohort=Cohort(sampling=Fixed(size=cohort or workloads.WORKLOADS[workload].cohort)),
        privacy=Privacy(example=example if private else None),
        evaluation=Evaluation(every=NEVER),
        engine=EngineSettings(trainer=trainer),
    )


class FedsimRounds:
    """A federation behind the in-process grid; every round starts from the same weights."""

    def __init__(self, scenario: Scenario) -> None:
        self.federation: Federation = build_federation(scenario)
        self.text = scenario.to_toml()
        self.digest = scenario.digest
        self.grid = InProcessGrid(app)

    def host(self) -> None:
        """Make this the federation that the process's clients use."""
        host(self.federation)

    def job(self, number: int, cohort: np.ndarray[Any, Any]) -> TrainJob:
        """What a round asks the node."""
        federation = self.federation
        start, clip_norms = federation.start.numpy(), federation.plan.clip_norms()
        return TrainJob(number, self.text, self.digest, cohort, start, workloads.LEARNING_RATE, clip_norms)

    def round(self, number: int, cohort: np.ndarray[Any, Any]) -> Tensor:
        """The mean update of the round's cohort."""
        message = pack_job(self.job(number, cohort), NODE)
        (answer,) = self.grid.send_and_receive([message])
        if answer.has_error():
            raise RuntimeError(answer.error.reason)
        reply: TrainReply = unpack_reply(answer, self.federation.report_size, cohort)
        return torch.from_numpy(reply.total) / reply.weight

    def drawn(self, number: int, cohort: np.ndarray[Any, Any]) -> list[list[Tensor]]:
        """The record numbers of every batch that each client draws in a round, without privacy."""
        from fedsim.client import block_work
        from fedsim.privacy.keystream import Keystream

        plan, seed = self.federation.plan, self.federation.scenario.seed
        keystream = Keystream.of(plan.randomness, seed, number)
        work = block_work(self.federation, self.job(number, cohort), cohort, keystream)
        rows = range(len(work.clients))
        return [[torch.from_numpy(work.batch(row, step)) for step in range(work.steps[row])] for row in rows]


class _Enough(Exception):
    """As many rounds as were asked for are done."""


def loop_seconds(scenario: Scenario, rounds: int, out: Path, measure: Callable[[], None]) -> list[float]:
    """Seconds of every round of a run but the first; ``measure`` is called before the run is broken off."""
    times: list[float] = []

    def on_round(row: dict[str, Any]) -> None:
        times.append(time.perf_counter())
        if len(times) > rounds:
            measure()
            raise _Enough

    with contextlib.suppress(_Enough):
        run(scenario, out, on_round=on_round)
    return list(np.diff(times))
