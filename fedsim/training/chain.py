"""A chain of kernels: the whole model forward and backward for a stack of clients, plain and with DP-SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from fedsim.privacy.clipping import clip_factors, narrowed
from fedsim.tasks import Task
from fedsim.training.kernels import (
    ActivateKernel,
    ChannelsLastKernel,
    DenseKernel,
    DropKernel,
    FlattenKernel,
    Kernel,
    Saved,
    Tensors,
)
from fedsim.training.kernels_image import DirectConv, NormKernel, PoolKernel, UnfoldedConv
from fedsim.training.program import Activate, Conv, Dense, Drop, Flatten, Layer, MaxPool, Norm, Program
from fedsim.training.work import Batch

# Convolutions of so many multiplications per example are fastest one client after the other on a CPU.
DIRECT = 500_000

# The kernel of each kind of layer, from the layer and whether it is given images with their channels last.
KERNELS: dict[type[Layer], Callable[[Any, bool], Kernel]] = {
    Dense: lambda layer, _: DenseKernel(layer),
    Conv: lambda layer, _: UnfoldedConv(layer),
    MaxPool: lambda layer, _: PoolKernel(layer),
    Norm: lambda layer, _: NormKernel(layer),
    Activate: lambda layer, _: ActivateKernel(layer),
    Drop: DropKernel,
    Flatten: FlattenKernel,
}

# The parameters of every kernel: ``parameters[kernel][i]`` is ``[clients, ...]``.
Stack = list[Tensors]


class Chain:
    """The kernels of a program; holds no state, so that threads may share it."""

    def __init__(self, program: Program, device: torch.device) -> None:
        self.size = program.size
        self.kernels = _kernels(program, device)
        # Nothing below the first parameters needs a gradient.
        self.first = next(i for i, kernel in enumerate(self.kernels) if kernel.slots)
        self.values = self._values(program, device)

    def bytes_per_client(self, batch: int, private: bool) -> int:
        """About the memory that one client's weights, activations and, with DP-SGD, gradients take in a step."""
        return 4 * (2 * self.size + (2 + private) * batch * self.values)

    def _values(self, program: Program, device: torch.device) -> int:
        """How many values a pass of one example keeps, found by one."""
        rows = torch.zeros(1, program.size, device=device)
        drops = sorted((layer for layer in program.layers if isinstance(layer, Drop)), key=lambda drop: drop.number)
        masks = [torch.ones(1, 1, drop.size, device=device) for drop in drops]
        outputs, kept = self.forward(self.load(rows), torch.zeros(1, 1, *program.shape, device=device), masks)
        return outputs.numel() + sum(tensor.numel() for saved in kept for tensor in saved)

    def load(self, rows: Tensor) -> Stack:
        """The parameters of weights ``[clients, params]``, views of them where their order is the same."""
        return [[slot.take(rows) for slot in kernel.slots] for kernel in self.kernels]

    def places(self, values: Stack) -> list[tuple[slice, Tensor]]:
        """Where in the flat vector each parameter lies, and its values ``[clients, n]``."""
        pairs = zip(self.kernels, values, strict=True)
        own = [(s, v) for kernel, tensors in pairs for s, v in zip(kernel.slots, tensors, strict=True)]
        return [(slice(slot.start, slot.stop), slot.flat(value)) for slot, value in sorted(own, key=_start)]

    def rows(self, values: Stack) -> Tensor:
        """Back from parameters to ``[clients, params]``."""
        return torch.cat([value for _, value in self.places(values)], dim=1)

    def forward(self, parameters: Stack, x: Tensor, masks: Tensors) -> tuple[Tensor, list[Saved]]:
        """Outputs ``[clients, batch, outputs]`` of features ``[clients, batch, ...]``, and what ``backward`` needs."""
        kept = []
        for kernel, own in zip(self.kernels, parameters, strict=True):
            x, saved = kernel.forward(own, x, masks)
            kept.append(saved)
        return x, kept

    def backward(self, parameters: Stack, kept: list[Saved], delta: Tensor) -> Iterator[tuple[int, Saved, Tensor]]:
        """From last to first each kernel with parameters: its number, what it saved, and its delta.

        The kernels below are done with its parameters by then, so they may be changed at once.
        """
        for number in range(len(self.kernels) - 1, self.first - 1, -1):
            kernel, own, saved = self.kernels[number], parameters[number], kept.pop(number)
            below = kernel.backward(own, saved, delta) if number > self.first else delta
            if kernel.slots:
                yield number, saved, delta
            delta = below

    def gradient(self, rows: Tensor, batch: Batch, task: Task) -> Tensor:
        """Gradient ``[clients, params]`` of each client's mean loss over its real examples."""
        mask = batch.mask.to(rows.dtype).unsqueeze(2)
        parameters = self.load(rows)
        # A place without an example holds some other client's, which may be NaN: it must not touch this one.
        features = batch.features.masked_fill(~_against(batch.mask, batch.features), 0)
        outputs, kept = self.forward(parameters, features, batch.dropout_masks)
        delta = loss_gradient(task, outputs, batch.labels) * (mask / mask.sum(1, keepdim=True).clamp(min=1))
        found: Stack = [[] for _ in self.kernels]
        for number, saved, d in self.backward(parameters, kept, delta):
            found[number] = self.kernels[number].gradients(saved, d)
        return self.rows(found)

    def clipped(
        self, rows: Tensor, batch: Batch, task: Task, clip_norm: float, per_layer: bool
    ) -> tuple[Tensor, Tensor]:
        """Sums ``[clients, params]`` of the real examples' clipped gradients, and their centred counts."""
        parameters = self.load(rows)
        outputs, kept = self.forward(parameters, batch.features, batch.dropout_masks)
        delta = loss_gradient(task, outputs, batch.labels)
        terms = list(self.backward(parameters, kept, delta))
        measured = {number: self.kernels[number].squares(saved, d) for number, saved, d in terms}
        parts = [square for squares, _ in measured.values() for square in squares]
        norms = torch.stack(parts).sum(0).sqrt()
        counts = (((norms <= clip_norm).double() - 0.5) * batch.mask).sum(1)
        bad = _bad(norms)
        joint = None if per_layer else narrowed(clip_factors(norms, clip_norm) * batch.mask, rows.dtype)
        share = clip_norm / len(parts) ** 0.5
        found: Stack = [[] for _ in self.kernels]
        for number, saved, d in terms:
            squares, own = measured[number]
            factors = [_own_factors(s, share, batch.mask, rows.dtype) if joint is None else joint for s in squares]
            found[number] = self.kernels[number].weighted(saved, d, own, factors, bad)
        return self.rows(found), counts


def loss_gradient(task: Task, outputs: Tensor, labels: Tensor) -> Tensor:
    """Gradient of every example's own loss with respect to its outputs ``[clients, batch, outputs]``."""
    return task.gradient(outputs.flatten(0, 1), labels.flatten(0, 1)).view(outputs.shape)


def _own_factors(squares: Tensor, share: float, mask: Tensor, dtype: torch.dtype) -> Tensor:
    return narrowed(clip_factors(squares.sqrt(), share) * mask, dtype)


def _bad(norms: Tensor) -> Tensor | None:
    """Which examples ``[clients, batch]`` are NaN or infinite; None if none is, where looking costs nothing."""
    bad = ~torch.isfinite(norms)
    return None if bad.device.type == "cpu" and not bad.any() else bad


def _against(mask: Tensor, values: Tensor) -> Tensor:
    return mask.view(*mask.shape, *[1] * (values.dim() - 2))


def _start(pair: tuple[Any, Tensor]) -> int:
    return int(pair[0].start)


def _kernels(program: Program, device: torch.device) -> list[Kernel]:
    kernels: list[Kernel] = []
    channels_last = False
    for layer in _reordered(list(program.layers)):
        if isinstance(layer, Conv | MaxPool | Norm) and len(layer.shape) > 1 and not channels_last:
            kernels.append(ChannelsLastKernel())
            channels_last = True
        if isinstance(layer, Conv) and device.type == "cpu" and _multiplications(layer) > DIRECT:
            kernels.append(DirectConv(layer))
        else:
            kernels.append(KERNELS[type(layer)](layer, channels_last))
        channels_last = channels_last and not isinstance(layer, Flatten)
    return kernels


def _reordered(layers: list[Layer]) -> list[Layer]:
    """The same function with less work: relu after max-pooling, and element-wise layers after flattening."""
    for number in range(len(layers) - 1, 0, -1):
        for at in range(number, len(layers)):
            here, after = layers[at - 1], layers[at]
            if isinstance(here, Activate) and here.function == "relu" and isinstance(after, MaxPool):
                size = after.result[0] * after.result[1] * after.result[2]
                layers[at - 1], layers[at] = after, Activate("relu", size)
            elif isinstance(here, Activate | Drop) and isinstance(after, Flatten):
                layers[at - 1], layers[at] = after, here
            else:
                break
    return layers


def _multiplications(layer: Conv) -> int:
    channels, (outputs, height, width) = layer.shape[0], layer.result
    return channels * layer.kernel[0] * layer.kernel[1] * outputs * height * width
