"""The clients of the Flower peer: model and data stay in the actor's process, which has one thread."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from benchmarks.plain import Batches, in_order, train
from benchmarks.workloads import EXAMPLES, load_data, seeded_model

DATA = "FEDSIM_BENCH_DATA"
app = ClientApp()


@cache
def data(workload: str) -> tuple[Tensor, Tensor]:
    """The workload's data, mapped once a process."""
    return load_data(workload, Path(os.environ[DATA]))


@cache
def model(workload: str, dropout: bool = True) -> nn.Module:
    """The workload's model, built once a process."""
    return seeded_model(workload, dropout)


@app.train()
def train_client(message: Message, context: Context) -> Message:
    """Load the global weights, train on the partition's records, send the weights back."""
    torch.set_num_threads(1)
    config, client = message.content["config"], int(context.node_config["partition-id"])
    module = model(config["workload"], dropout=not config["check"])
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    features, labels = data(config["workload"])
    _train(module, config["mode"], config["check"], in_order(features[client], labels[client]))
    metrics = MetricRecord({"num-examples": EXAMPLES, "client": client})
    return Message(RecordDict({"arrays": ArrayRecord(module.state_dict()), "metrics": metrics}), reply_to=message)


def _train(module: nn.Module, mode: str, exact: bool, batches: Batches) -> None:
    if mode == "plain":
        train(module, batches)
        return
    from benchmarks.private import wrap

    wrapped = wrap(module, mode, exact)
    wrapped.train(batches)
    wrapped.module.to_standard_module()
