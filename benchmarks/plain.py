"""What a round costs without a simulator: a plain PyTorch loop over the clients, and the bare arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.workloads import BATCH, EXAMPLES, LEARNING_RATE, draw_cohort, seeded_model

MICRO_BATCH = 100  # the bare arithmetic's largest batch: larger ones fall out of the caches
Batches = Iterable[tuple[Tensor, Tensor]]


def in_order(features: Tensor, labels: Tensor) -> Batches:
    """One client's batches of an epoch, in the order of its records."""
    return zip(features.split(BATCH), labels.split(BATCH), strict=True)


def load(parameters: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy values into a model's parameters."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


def train(module: nn.Module, batches: Batches) -> None:
    """Plain SGD on the mean loss of each batch, in place."""
    optimizer = torch.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    for features, labels in batches:
        optimizer.zero_grad()
        cross_entropy(module(features), labels).backward()
        optimizer.step()


@torch.no_grad()
def add_updates(total: Sequence[Tensor], parameters: Sequence[Tensor], start: Sequence[Tensor]) -> None:
    """Add one client's update to the running sum, in place."""
    for part, parameter, value in zip(total, parameters, start, strict=True):
        part.add_(parameter).sub_(value)


def mean_update(module: nn.Module, start: Sequence[Tensor], clients: Sequence[Batches]) -> Tensor:
    """The clients' mean update as one vector ``[params]``: the oracle for every engine."""
    parameters, total = list(module.parameters()), [torch.zeros_like(value) for value in start]
    for batches in clients:
        load(parameters, start)
        train(module, batches)
        add_updates(total, parameters, start)
    return torch.cat([part.reshape(-1) for part in total]) / len(clients)


def difference(update: Tensor, expected: Tensor) -> float:
    """The distance of two updates, relative to the expected one's length."""
    return float((update.double() - expected.double()).norm() / expected.double().norm())


class PlainRounds:
    """One model: load the global weights, train, add the update, client after client."""

    def __init__(self, workload: str, features: Tensor, labels: Tensor) -> None:
        self.workload, self.features, self.labels = workload, features, labels
        self.module = seeded_model(workload)
        self.start = [p.detach().clone() for p in self.module.parameters()]

    def round(self, number: int) -> Tensor:
        """The mean update of the round's cohort."""
        clients = [in_order(self.features[c], self.labels[c]) for c in draw_cohort(self.workload, number)]
        return mean_update(self.module, self.start, clients)


class BareRounds:
    """The same examples through one model in one gradient: what the arithmetic takes, and no federated learning."""

    def __init__(self, workload: str, features: Tensor, labels: Tensor) -> None:
        self.workload, self.features, self.labels = workload, features, labels
        self.module = seeded_model(workload)

    def round(self, number: int) -> None:
        """Forward and backward over all examples of the round's cohort."""
        self.module.zero_grad()
        cohort = torch.from_numpy(draw_cohort(self.workload, number))
        for clients in cohort.split(MICRO_BATCH // EXAMPLES):
            outputs = self.module(self.features[clients].flatten(0, 1))
            cross_entropy(outputs, self.labels[clients].flatten(), reduction="sum").backward()
