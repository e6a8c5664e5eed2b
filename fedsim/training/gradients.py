"""What a trainer must offer: the gradient of one local step for a stack of clients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedsim.models.layers import Dropout, dropout_layers
from fedsim.params import Layout
from fedsim.privacy.events import Event
from fedsim.privacy.mechanism import Release
from fedsim.tasks import Classification
from fedsim.training.work import Batch


class Gradients(ABC):
    """Gradients of a model on a task, for clients whose weights are rows of one stack ``[clients, params]``."""

    def __init__(self, module: nn.Module, task: Classification) -> None:
        self.module, self.task = module, task
        self.layout = Layout.of(module)
        self.dropout_layers = dropout_layers(module)
        self.dropout_shapes = _input_shapes(module, self.dropout_layers, task)
        self.released: Counter[Event] = Counter()
        self.counted = 0.0

    def note(self, release: Release) -> None:
        """Keep the books on what noise was drawn for: events, and the noised counts of adaptive clipping."""
        self.released[release.event] += 1
        self.counted += release.count or 0.0

    @abstractmethod
    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over its real examples; no privacy."""

    @abstractmethod
    def private(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """DP-SGD's gradient: per-example gradients clipped, summed, noised once, divided by the public batch size."""

    @abstractmethod
    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """Working memory that one more client in a block takes; sizes the blocks."""


def _input_shapes(module: nn.Module, layers: list[Dropout], task: Classification) -> list[tuple[int, ...]]:
    """Shape, without the batch, of what enters each dropout layer: found by one evaluation pass of one example."""
    shapes: dict[Dropout, tuple[int, ...]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Dropout)
        shapes[layer] = tuple(inputs[0].shape[1:])

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    module.eval()
    with torch.no_grad():
        module(torch.zeros(1, *task.data.shape, device=task.features.device))
    for hook in hooks:
        hook.remove()
    return [shapes[layer] for layer in layers]
