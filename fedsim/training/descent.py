"""Plain gradient descent of a stack of clients, every step taken where the gradient is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fedsim.algorithms import LocalProblem, LocalTraining
from fedsim.tasks import Task
from fedsim.training.chain import loss_gradient
from fedsim.training.work import Work, dropout_masks

if TYPE_CHECKING:
    from fedsim.training.vectorised import VectorisedTrainer


def is_plain_descent(local: LocalTraining) -> bool:
    """Whether every step is one of plain SGD, beside the problem's pull and linear term."""
    options = (*local.options.values(), local.l1, local.l2, local.max_grad_norm)
    return local.optimizer == "sgd" and not any(options)


def descend(trainer: VectorisedTrainer, rate: float, problem: LocalProblem, work: Work, updates: Tensor) -> None:
    """Train clients at a learning ``rate``, and write their ``updates`` ``[clients, params]``."""
    chain, start, pull = trainer.chain, problem.start, problem.pull
    assert chain is not None
    weights = [[_stacked(own, len(updates)) for own in part] for part in chain.load(torch.atleast_2d(start))]
    centre = chain.load(torch.atleast_2d(problem.centre))
    linear = None if problem.linear is None else chain.load(torch.atleast_2d(problem.linear))
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
                for own, there in zip(now[number], centre[number], strict=True):
                    own.lerp_(there[:active], rate * pull)
            if linear is not None:
                for own, slope in zip(now[number], linear[number], strict=True):
                    own.sub_(slope[:active], alpha=rate)
            chain.kernels[number].descend(now[number], saved, d, rate)
    for place, values in chain.places(weights):
        torch.sub(values, start[..., place], out=updates[:, place])


def _stacked(own: Tensor, clients: int) -> Tensor:
    """One parameter of every client, which may be written to."""
    return own.expand(clients, *own.shape[1:]).clone(memory_format=torch.contiguous_format)


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
