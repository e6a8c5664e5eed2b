"""Training a block of clients: what a trainer must offer, and the loop for every algorithm and optimizer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.algorithms import LocalProblem, LocalTraining
from fedsim.memory import Halving
from fedsim.models.layers import Dropout, dropout_layers
from fedsim.optimizers import build_optimizer
from fedsim.params import Layout, bind_vector
from fedsim.privacy.clipping import add_clipped
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream
from fedsim.tasks import Task
from fedsim.training.work import Batch, Records, Work, make_batch

# Records whose losses are evaluated at once.
LOSSES = 1024


@dataclass
class Trained:
    """Updates ``[clients, params]`` (weights after minus before), what the noise spent, and the noised counts.

    Of an algorithm the updates are whole reports ``[clients, report]``, and ``state`` is what its clients keep.

    The counts stay tensors until they are asked for, so that a device need not wait after every step.
    """

    updates: Tensor
    spent: Counter[Event] = field(default_factory=Counter)
    counts: list[Tensor] = field(default_factory=list)
    state: Tensor | None = None


class Trainer(ABC):
    """Trains clients whose weights are rows of one stack ``[clients, params]``."""

    # How many blocks may train at once, each in a thread of its own.
    parallel_blocks = 1

    def __init__(self, module: nn.Module, task: Task) -> None:
        self.module, self.task = module, task
        self.layout = Layout.of(module)
        self.dropout_layers = dropout_layers(module)
        self.dropout_shapes = _input_shapes(module, self.dropout_layers, task)
        self.halving = Halving(self.forget)

    def forget(self) -> None:
        """Let go of what a step that failed for want of memory has left behind."""
        for layer in self.dropout_layers:
            layer.mask = None
        for parameter in self.module.parameters():
            parameter.grad = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def train(self, local: LocalTraining, problem: LocalProblem, work: Work) -> Trained:
        """Train every client; the updates, in the order of ``work``, last until the next call."""
        return train_block(self, local, problem, work)

    def full_gradients(self, local: LocalTraining, params: Tensor, work: Work) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over all of its records, and of ``local``'s penalties, at ``params``."""
        once = replace(local, learning_rate=1.0)
        return -self.train(once, LocalProblem(params), work.whole()).updates

    @torch.no_grad()
    def mean_losses(self, params: Float[Tensor, " params"], work: Work) -> Float[Tensor, " clients"]:
        """Each client's mean loss over all of its records at ``params``, as the model is evaluated, in float64."""
        whole, module = work.whole(), copy.deepcopy(self.module).eval()  # blocks may run side by side
        bind_vector(module, params)
        records, labels = torch.from_numpy(whole.records).to(params.device), self.task.labels
        parts = [
            self.task.losses(module(self.task.features[part]), labels[part]).double() for part in records.split(LOSSES)
        ]
        sizes = torch.from_numpy(whole.lengths[:, 0]).to(params.device)
        rows = torch.arange(len(sizes), device=params.device).repeat_interleave(sizes)
        return (
            torch.zeros(len(sizes), dtype=torch.float64, device=params.device).index_add_(0, rows, torch.cat(parts))
            / sizes
        )

    def add_clipped(
        self,
        total: Float[Tensor, " params"],
        updates: Float[Tensor, "clients params"],
        clip_norm: float,
        weights: Tensor,
    ) -> Float[Tensor, " clients"]:
        """See ``privacy.clipping``: a trainer may have a faster way to add up its clients' updates."""
        return add_clipped(total, updates, clip_norm, weights)

    def words(self, keystream: Keystream, stream: Stream, clients: Records, counts: Records) -> NDArray[np.uint64]:
        """See ``Keystream``: a trainer may have a faster way to make its words."""
        return keystream.words(stream, clients, counts)

    def normals(self, keystream: Keystream, stream: Stream, clients: Tensor, step: int, count: int) -> Tensor:
        """See ``Keystream``: a trainer may have a faster way to make its normals."""
        return keystream.normals(stream, clients, step, count)

    @abstractmethod
    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over its real examples; no privacy."""

    @abstractmethod
    def clipped(
        self, weights: Float[Tensor, "clients params"], batch: Batch, clip_norm: float, per_layer: bool = False
    ) -> tuple[Float[Tensor, "clients params"], Float[Tensor, " clients"]]:
        """DP-SGD's sums of clipped gradients of each client's real examples, and their centred counts; no noise."""

    def block_length(self, clients: int, threads: int, batch_size: int, private: bool) -> int:
        """How many of ``clients`` are best given to ``train`` at once, with so many threads that each train a block."""
        return -(-clients // threads)

    @abstractmethod
    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """Working memory that one more client in a block takes; sizes the blocks."""


def train_block(trainer: Trainer, local: LocalTraining, problem: LocalProblem, work: Work) -> Trained:
    """Train every client; the clients that still train are always the first rows of the stack."""
    weights = problem.starts(len(work.clients))
    result = Trained(torch.empty_like(weights))
    optimizer = build_optimizer(local.optimizer, weights, local.learning_rate, local.options)
    for step in range(work.lengths.shape[1]):
        active = work.active(step)
        if active < len(weights):
            result.updates[active : len(weights)] = weights[active:]
            weights = keep_first(optimizer, weights, active)
        gradient = local.scaled(step_gradient(trainer, weights, work, step, result))
        gradient = problem.added(gradient, weights)
        weights.grad = gradient + local.penalties(weights) if local.l1 or local.l2 else gradient
        optimizer.step()
    result.updates[: len(weights)] = weights
    result.updates -= problem.start
    return result


def step_gradient(trainer: Trainer, weights: Tensor, work: Work, step: int, result: Trained) -> Tensor:
    """What the clients step against: the mean loss' gradient, or DP-SGD's, whose noise is noted in ``result``."""
    batch = make_batch(trainer.task, work, step, trainer.dropout_layers, trainer.dropout_shapes)
    if work.noise is None:
        return trainer.plain(weights, batch)
    sums, counts = trainer.clipped(weights, batch, work.noise.clip_norm, work.per_layer)
    released = work.noise.release(sums, counts.double(), step)
    result.spent.update(released.spent)
    if released.counts is not None:
        result.counts.append(released.counts)
    return released.totals / work.denominator


def keep_first(optimizer: torch.optim.Optimizer, weights: Tensor, active: int) -> Tensor:
    """Go on with the first rows only: their weights and their part of the optimizer's state."""
    kept = weights[:active].clone()
    state = optimizer.state.pop(weights, {})
    optimizer.state[kept] = {
        name: value[:active].clone() if isinstance(value, Tensor) and value.shape == weights.shape else value
        for name, value in state.items()
    }
    optimizer.param_groups[0]["params"] = [kept]
    return kept


def _input_shapes(module: nn.Module, layers: list[Dropout], task: Task) -> list[tuple[int, ...]]:
    """Shape, without the batch, of what enters each dropout layer: found by one evaluation pass of one example."""
    shapes: dict[Dropout, tuple[int, ...]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Dropout)
        shapes[layer] = tuple(inputs[0].shape[1:])

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    module.eval()
    with torch.no_grad():
        module(task.signature.zeros(1, task.features.device))
    for hook in hooks:
        hook.remove()
    return [shapes[layer] for layer in layers]
