"""A client's work in one round: every random draw of it, made before training, so both trainers see the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fedsim.models.layers import Dropout
from fedsim.privacy.mechanism import GaussianSum, RandomSource
from fedsim.tasks import Classification

Records = NDArray[np.int64]


@dataclass(frozen=True)
class ClientWork:
    """The batches of one client (record numbers, one array a step), its noise mechanism, and its random streams."""

    client: int
    batches: list[Records]
    mechanism: GaussianSum | None
    denominator: int
    noise: RandomSource
    dropout: RandomSource
    per_layer: bool = False


def epoch_batches(records: Records, batch_size: int, steps: int, rng: np.random.Generator) -> list[Records]:
    """``steps`` batches from reshuffled passes over the records; the last batch of a pass may be smaller."""
    batches: list[Records] = []
    while len(batches) < steps:
        order = rng.permutation(records)
        batches += [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    return batches[:steps]


def poisson_batches(records: Records, rate: float, steps: int, rng: RandomSource) -> list[Records]:
    """``steps`` batches in which every record takes part independently with probability ``rate``; some may be empty."""
    chosen = rng.random((steps, len(records))) < rate
    return [records[row] for row in chosen]


@dataclass(frozen=True)
class Batch:
    """One step's examples of several clients, padded to one length; ``mask`` marks the real ones."""

    features: Float[Tensor, "clients batch ..."]
    labels: Int[Tensor, "clients batch"]
    mask: Bool[Tensor, "clients batch"]
    dropout_masks: list[Tensor]
    works: list[ClientWork]

    @property
    def counts(self) -> list[int]:
        """Number of real examples of each client."""
        return [int(count) for count in self.mask.sum(1)]


def make_batch(
    task: Classification, works: list[ClientWork], step: int, layers: list[Dropout], shapes: list[tuple[int, ...]]
) -> Batch:
    """Gather step number ``step`` of several clients and draw their dropout masks (``shapes`` without the batch)."""
    batches = [work.batches[step] for work in works]
    longest = max([1, *(len(batch) for batch in batches)])
    index = np.zeros((len(works), longest), np.int64)
    mask = np.zeros((len(works), longest), bool)
    for row, batch in enumerate(batches):
        index[row, : len(batch)] = batch
        mask[row, : len(batch)] = True
    device = task.features.device
    where = torch.from_numpy(index).to(device)
    dropout_masks = [
        _dropout_mask(works, batches, longest, layer.p, shape).to(device)
        for layer, shape in zip(layers, shapes, strict=True)
    ]
    return Batch(task.features[where], task.labels[where], torch.from_numpy(mask).to(device), dropout_masks, works)


def _dropout_mask(
    works: list[ClientWork], batches: list[Records], longest: int, p: float, shape: tuple[int, ...]
) -> Tensor:
    """Masks ``[clients, batch, *shape]`` holding 0 or 1 / (1 - p), each client's from its own stream."""
    masks = np.zeros((len(works), longest, *shape), np.float32)
    for row, (work, batch) in enumerate(zip(works, batches, strict=True)):
        kept = work.dropout.random((len(batch), *shape)) >= p
        masks[row, : len(batch)] = kept / (1 - p)
    return torch.from_numpy(masks)
