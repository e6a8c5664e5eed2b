"""The Flower peer: FedAvg in Flower's Ray simulation, one round for each line on standard input."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch import Tensor

from benchmarks import flower_client
from benchmarks.plain import difference, in_order, mean_update
from benchmarks.stepping import Steps
from benchmarks.workloads import CLIENTS, WORKLOADS

FOREVER = 10**9
ACTORS = 2


class _Ended(Exception):
    """There are no more commands."""


class SteppedFedAvg(FedAvg):
    """FedAvg that waits for a command before a round and answers after it; every round starts from the same weights."""

    def __init__(self, steps: Steps) -> None:
        super().__init__(fraction_evaluate=0.0, min_available_nodes=CLIENTS)
        self.steps, self.command, self.began = steps, {}, 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Wait; then the round's time begins."""
        command = self.steps.next()
        if command is None:
            raise _Ended
        self.command, workload = command, command["workload"]
        self.fraction_train = WORKLOADS[workload].cohort / CLIENTS
        start = ArrayRecord(flower_client.model(workload).state_dict())
        self.began = time.perf_counter()
        return super().configure_train(server_round, start, ConfigRecord(command), grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The round's time ends with the aggregated weights."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        seconds = time.perf_counter() - self.began
        failed = [message.error.reason for message in replies if message.has_error()]
        if failed or arrays is None:
            self.steps.answer(error=failed[0] if failed else "no client answered")
        elif self.command["check"]:
            clients = [int(message.content["metrics"]["client"]) for message in replies]
            self.steps.answer(difference=_difference(self.command["workload"], arrays, clients))
        else:
            self.steps.answer(seconds=seconds)
        return arrays, metrics


def _difference(workload: str, arrays: ArrayRecord, clients: list[int]) -> float:
    """How far the round's update is from the plain loop's for the same clients."""
    features, labels = flower_client.data(workload)
    start = [p.detach() for p in flower_client.model(workload).parameters()]
    module = flower_client.model(workload, dropout=False)
    expected = mean_update(module, start, [in_order(features[c], labels[c]) for c in clients])
    return difference(_flat(arrays.to_torch_state_dict().values()) - _flat(start), expected)


def _flat(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


def main() -> None:
    """Run the simulation until standard input ends."""
    steps, server = Steps(), ServerApp()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)

    @server.main()
    def serve(grid: Grid, context: Context) -> None:
        first = ArrayRecord(flower_client.model("tiny").state_dict())
        SteppedFedAvg(steps).start(grid=grid, initial_arrays=first, num_rounds=FOREVER)

    ray: dict[str, Any] = {"num_cpus": ACTORS, "include_dashboard": False, "log_to_driver": False}
    ray["logging_level"] = logging.ERROR
    try:
        run_simulation(
            server_app=server,
            client_app=flower_client.app,
            num_supernodes=CLIENTS,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": ray},
        )
    except _Ended:
        os._exit(0)


if __name__ == "__main__":
    main()
