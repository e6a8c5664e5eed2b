"""The pfl-research peer: federated averaging in two processes of one thread, one round for each line it is sent."""

from __future__ import annotations

import os
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data import FederatedDataset
from pfl.data.dataset import Dataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.plain import difference, in_order, load, mean_update
from benchmarks.stepping import Steps
from benchmarks.workloads import BATCH, LEARNING_RATE, WORKLOADS, draw_cohort, load_data, seeded_model

FOREVER = 10**9
RANK = int(os.environ["RANK"])


def next_command(steps: Steps | None) -> dict[str, Any] | None:
    """The next command, for both processes: the first one reads it."""
    box = [steps.next() if steps else None]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def cohorts(workload: str) -> Iterator[int]:
    """The clients of one round after the other."""
    number = 1
    while True:
        yield from (int(client) for client in draw_cohort(workload, number))
        number += 1


class Stepped(TrainingProcessCallback):
    """Answers after each round, puts the first weights back, and waits for the next command."""

    def __init__(self, steps: Steps | None, command: dict[str, Any], module: nn.Module) -> None:
        self.steps, self.command, self.module = steps, command, module
        self.start = [p.detach().clone() for p in module.parameters()]
        self.dropout = {layer: layer.p for layer in module.modules() if isinstance(layer, nn.Dropout)}
        self.round, self.began = 0, 0.0
        self._set_dropout()

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """The first round's time begins."""
        self.began = time.perf_counter()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """The round's time ends; pfl stops when another workload is asked for."""
        seconds, workload = time.perf_counter() - self.began, self.command["workload"]
        if self.steps and self.command["check"]:
            self.steps.answer(difference=self._difference(workload))
        elif self.steps:
            self.steps.answer(seconds=seconds)
        load(list(self.module.parameters()), self.start)
        self.round += 1
        self.command = next_command(self.steps)
        self._set_dropout()
        self.began = time.perf_counter()
        return self.command is None or self.command["workload"] != workload, Metrics()

    def _set_dropout(self) -> None:
        """Switch dropout off for a round that is compared."""
        checked = self.command is not None and self.command["check"]
        for layer, p in self.dropout.items():
            layer.p = 0.0 if checked else p

    def _difference(self, workload: str) -> float:
        """How far the round's update is from the plain loop's for the same clients."""
        reached = torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])
        start = torch.cat([p.reshape(-1) for p in self.start])
        features, labels = load_data(workload, Path(os.environ["FEDSIM_BENCH_DATA"]))
        clients = [in_order(features[c], labels[c]) for c in draw_cohort(workload, self.round)]
        return difference(reached - start, mean_update(self.module, self.start, clients))


def _loss(self: nn.Module, features: Tensor, labels: Tensor, eval: bool = False) -> Tensor:
    self.train(not eval)
    return cross_entropy(self(features), labels)


def _metrics(self: nn.Module, features: Tensor, labels: Tensor, eval: bool = True) -> dict[str, Any]:
    return {}


def _backend(workload: str) -> SimulatedBackend:
    features, labels = load_data(workload, Path(os.environ["FEDSIM_BENCH_DATA"]))
    clients = cohorts(workload)

    def make_dataset(client: int) -> Dataset:
        return Dataset(raw_data=[features[client], labels[client]], user_id=str(client))

    data = FederatedDataset(make_dataset, lambda: next(clients))
    return SimulatedBackend(training_data=data, val_data=data, postprocessors=[WeightByDatapoints()])


def run(workload: str, callback: Stepped) -> None:
    """Federated averaging on one workload, until the callback stops it."""
    module = callback.module
    module.loss, module.metrics = types.MethodType(_loss, module), types.MethodType(_metrics, module)
    central = torch.optim.SGD(module.parameters(), 1.0)
    model = PyTorchModel(model=module, local_optimizer_create=torch.optim.SGD, central_optimizer=central)
    cohort = WORKLOADS[workload].cohort
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(FOREVER, FOREVER, train_cohort_size=cohort, val_cohort_size=0),
        backend=_backend(workload),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_learning_rate=LEARNING_RATE, local_num_epochs=1, local_batch_size=BATCH
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[callback],
        send_metrics_to_platform=False,
    )


def main() -> None:
    """Work off commands until standard input ends."""
    steps = Steps() if RANK == 0 else None
    torch.set_num_threads(1)
    np.random.seed(0)  # noqa: NPY002 (pfl draws from it, and both processes must draw the same)
    command = next_command(steps)
    while command is not None:
        callback = Stepped(steps, command, seeded_model(command["workload"]))
        run(command["workload"], callback)
        command = callback.command
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
