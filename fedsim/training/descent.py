"""Plain gradient descent of a stack of clients, every step taken where the gradient is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.algorithms import Algorithm
from fedsim.tasks import Task
from fedsim.training.chain import Chain, Stack, loss_gradient
from fedsim.training.trainer import Trainer
from fedsim.training.work import Work, dropout_masks


def pull_of(algorithm: Algorithm) -> float | None:
    """How strongly a plain SGD step is pulled to the round's start; None if the algorithm's step is another one."""
    local = algorithm.local
    plain = local.optimizer == "sgd" and not any((*local.options.values(), local.l1, local.l2, local.max_grad_norm))
    return algorithm.pull if plain and type(algorithm).transform is Algorithm.transform else None


def descend(
    trainer: Trainer, chain: Chain, rates: tuple[float, float], start: Tensor, work: Work, updates: Tensor
) -> None:
    """Train clients from ``start`` ``[params]`` at (learning rate, pull), and write their ``updates``."""
    rate, pull = rates
    origin = chain.load(start[None])
    weights: Stack = [[own.repeat(len(updates), *[1] * (own.dim() - 1)) for own in part] for part in origin]
    for step, batch in enumerate(_batches(trainer.task, work, start.dtype)):
        active = len(batch.labels)
        now = [[own[:active] for own in part] for part in weights]
        masks = dropout_masks(
            work, step, batch.labels.shape[1], trainer.dropout_layers, trainer.dropout_shapes, start.device
        )
        outputs, kept = chain.forward(now, batch.features, masks)
        delta = loss_gradient(trainer.task, outputs, batch.labels) * batch.shares
        for number, saved, d in chain.backward(now, kept, delta):
            if pull:
                for own, first in zip(now[number], origin[number], strict=True):
                    own.lerp_(first, rate * pull)
            chain.kernels[number].descend(now[number], saved, d, rate)
    for place, values in chain.places(weights):
        torch.sub(values, start[place], out=updates[:, place])


@dataclass(frozen=True)
class _Batch:
    """A step's examples ``[clients, batch, ...]``, and each one's share ``[clients, batch, 1]`` of the mean loss."""

    features: Tensor
    labels: Tensor
    shares: Tensor


def _batches(task: Task, work: Work, dtype: torch.dtype) -> Iterator[_Batch]:
    """The steps of the clients that still train.

    A place without an example repeats one of the client's own: another's could be NaN, and 0 times NaN is NaN.
    """
    width = max(1, int(work.lengths.max(initial=0)))
    places, lengths = np.arange(width), work.lengths[:, :, None]
    index = work.starts[:, :, None] + np.minimum(places, np.maximum(lengths - 1, 0))
    device = task.features.device
    records = torch.from_numpy(work.records[np.minimum(index, len(work.records) - 1)]).to(device)
    shares = torch.from_numpy((places < lengths) / np.maximum(lengths, 1)).to(device, dtype)
    for step in range(work.lengths.shape[1]):
        part = (slice(0, work.active(step)), step, slice(0, max(1, int(work.lengths[:, step].max()))))
        own = records[part]
        flat = own.reshape(-1)
        features, labels = task.features.index_select(0, flat), task.labels.index_select(0, flat)
        yield _Batch(
            features.view(*own.shape, *features.shape[1:]),
            labels.view(*own.shape, *labels.shape[1:]),
            shares[part].unsqueeze(2),
        )
