"""DP-SGD by Opacus at its best: the module wrapped once and its weights reloaded, in the fastest of its modes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from opacus import PrivacyEngine
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.plain import Batches, add_updates, in_order, load
from benchmarks.workloads import (
    BATCH,
    CLIP_NORM,
    EXAMPLES,
    LEARNING_RATE,
    NOISE_MULTIPLIER,
    draw_cohort,
    seeded_model,
)

MODES = ("hooks", "ew", "ghost")
UNCLIPPED = 1e6  # a clip norm that no gradient reaches


@dataclass(frozen=True)
class Wrapped:
    """What Opacus makes of a module: it computes per-example gradients, the optimizer clips and noises."""

    module: nn.Module
    optimizer: Any
    criterion: Callable[[Tensor, Tensor], Any]

    def train(self, batches: Batches) -> None:
        """One DP-SGD step a batch, in place."""
        for features, labels in batches:
            self.optimizer.zero_grad()
            self.criterion(self.module(features), labels).backward()
            self.optimizer.step()


def wrap(module: nn.Module, mode: str, exact: bool = False) -> Wrapped:
    """Opacus' ``make_private`` for clients of the workloads; ``exact`` neither clips nor noises, for the check."""
    warnings.filterwarnings("ignore")  # Opacus warns of fixed batches, and of hooks in every pass
    records = TensorDataset(torch.zeros(EXAMPLES, 1))  # read for its length alone
    made = PrivacyEngine(accountant="rdp").make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=LEARNING_RATE),
        criterion=nn.CrossEntropyLoss(),
        data_loader=DataLoader(records, batch_size=BATCH),
        noise_multiplier=0.0 if exact else NOISE_MULTIPLIER,
        max_grad_norm=UNCLIPPED if exact else CLIP_NORM,
        poisson_sampling=False,
        grad_sample_mode=mode,
    )
    criterion = made[2] if mode == "ghost" else nn.CrossEntropyLoss()
    return Wrapped(made[0], made[1], criterion)


class OpacusRounds:
    """Client after client through one wrapped module."""

    def __init__(self, workload: str, mode: str, data: tuple[Tensor, Tensor], exact: bool = False) -> None:
        self.workload, self.data = workload, data
        self.wrapped = wrap(seeded_model(workload, dropout=not exact), mode, exact)
        self.parameters = list(self.wrapped.module.parameters())
        self.start = [p.detach().clone() for p in self.parameters]

    def round(self, number: int) -> Tensor:
        """The mean update of the round's cohort."""
        return self.clients([int(client) for client in draw_cohort(self.workload, number)])

    def clients(self, chosen: list[int]) -> Tensor:
        """The mean update of these clients."""
        features, labels = self.data
        total = [torch.zeros_like(value) for value in self.start]
        for client in chosen:
            load(self.parameters, self.start)
            self.wrapped.train(in_order(features[client], labels[client]))
            add_updates(total, self.parameters, self.start)
        return torch.cat([part.reshape(-1) for part in total]) / len(chosen)
