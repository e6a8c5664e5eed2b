"""Kernels: one layer of a chain for a stack of clients, forward and backward written out (no autograd).

Shapes: ``x`` and ``delta`` (the gradient with respect to what a layer returns) are ``[clients, batch, ...]``, images
with their channels last; parameters are ``[clients, ...]``. A new kind of layer is a dataclass in ``program``, a
kernel, and a line in ``chain.KERNELS``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.training.program import Activate, Dense, Drop, Flatten, Shape

Tensors = list[Tensor]
Saved = tuple[Tensor, ...]

# Squares are summed in float64 so many values at a time: a copy of all of them in float64 would leave the cache.
SQUARES = 1 << 17


@dataclass(frozen=True)
class Slot:
    """Where a parameter of this shape lies in the flat vector, and the order in which its kernel has the dimensions."""

    start: int
    shape: Shape
    order: Shape | None = None

    @property
    def stop(self) -> int:
        """Where it ends."""
        return self.start + math.prod(self.shape)

    def take(self, rows: Tensor) -> Tensor:
        """The parameter ``[clients, ...]`` out of ``rows`` ``[clients, params]``, a view where the order is theirs."""
        own = rows[:, self.start : self.stop].reshape(len(rows), *self.shape)
        return own if self.order is None else own.permute(0, *(1 + d for d in self.order)).contiguous()

    def flat(self, values: Tensor) -> Tensor:
        """Back from the kernel's order to ``[clients, values]``."""
        if self.order is not None:
            values = values.permute(0, *(1 + self.order.index(d) for d in range(len(self.order))))
        return values.reshape(len(values), -1)


class Kernel(ABC):
    """A layer without parameters, unless it says otherwise."""

    slots: tuple[Slot, ...] = ()

    @abstractmethod
    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """What the layer returns, and what its gradients need; may overwrite ``x`` if the layer before lets it."""

    @abstractmethod
    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """The gradient with respect to ``x``."""

    def gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """The gradients of its parameters, summed over the examples."""
        return []

    def descend(self, parameters: Tensors, saved: Saved, delta: Tensor, rate: float) -> None:
        """A step of gradient descent."""
        for parameter, gradient in zip(parameters, self.gradients(saved, delta), strict=True):
            parameter.sub_(gradient, alpha=rate)

    def squares(self, saved: Saved, delta: Tensor) -> tuple[Tensors, Tensors]:
        """Squared norms of its examples' gradients, one ``[clients, batch]`` per parameter, and the gradients."""
        own = self.example_gradients(saved, delta)
        return [squares(gradient) for gradient in own], own

    def example_gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """The gradients of its parameters of every example ``[clients, batch, ...]``."""
        return []

    def weighted(self, saved: Saved, delta: Tensor, own: Tensors, factors: Tensors, bad: Tensor | None) -> Tensors:
        """The examples' gradients times ``factors`` (one ``[clients, batch]`` per parameter), summed.

        ``own`` is what ``squares`` returned; ``bad`` ``[clients, batch]`` are examples that count as zero (0 times NaN
        would be NaN).
        """
        return [
            torch.bmm(f.unsqueeze(1), contained(gradient.flatten(2), bad)).reshape(len(f), *gradient.shape[2:])
            for f, gradient in zip(factors, own, strict=True)
        ]


def contained(values: Tensor, bad: Tensor | None) -> Tensor:
    """Values ``[clients, batch, n]``, those of bad examples zero."""
    return values if bad is None else values.masked_fill(bad.unsqueeze(2), 0)


def squares(values: Tensor) -> Tensor:
    """Squared norms ``[clients, batch]`` of ``[clients, batch, ...]``, accumulated in float64."""
    rows = values.flatten(2).flatten(0, 1)
    step = max(1, SQUARES // rows.shape[1]) if rows.device.type == "cpu" else len(rows)
    parts = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in rows.split(step)]
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).square_().view(values.shape[:2])


class DenseKernel(Kernel):
    """One product per client; per-example gradients are never formed (ghost norms: Goodfellow 2015, 1510.01799)."""

    def __init__(self, layer: Dense) -> None:
        weight = Slot(layer.weight, (layer.outputs, layer.inputs))
        self.slots = (weight,) if layer.bias is None else (weight, Slot(layer.bias, (layer.outputs,)))

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """``W x + b``."""
        weight = parameters[0].transpose(1, 2)
        y = torch.bmm(x, weight) if len(parameters) == 1 else torch.baddbmm(parameters[1].unsqueeze(1), x, weight)
        return y, (x,)

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """``W' delta``."""
        return torch.bmm(delta, parameters[0])

    def gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """Sums of outer products, and of delta."""
        return [torch.bmm(delta.transpose(1, 2), saved[0]), delta.sum(1)][: len(self.slots)]

    def descend(self, parameters: Tensors, saved: Saved, delta: Tensor, rate: float) -> None:
        """A step of gradient descent."""
        parameters[0].baddbmm_(delta.transpose(1, 2), saved[0], alpha=-rate)
        if len(parameters) > 1:
            parameters[1].sub_(delta.sum(1), alpha=rate)

    def squares(self, saved: Saved, delta: Tensor) -> tuple[Tensors, Tensors]:
        """The squared norm of an outer product is the product of the squared norms."""
        out = squares(delta)
        return [out * squares(saved[0]), out][: len(self.slots)], []

    def weighted(self, saved: Saved, delta: Tensor, own: Tensors, factors: Tensors, bad: Tensor | None) -> Tensors:
        """As ``gradients``, delta times the factors."""
        delta, x = contained(delta, bad), contained(saved[0], bad)
        scaled = delta * factors[0].unsqueeze(2)
        weight = torch.bmm(scaled.transpose(1, 2), x)
        if len(factors) == 1:
            return [weight]
        if factors[1] is not factors[0]:
            scaled = delta * factors[1].unsqueeze(2)
        return [weight, scaled.sum(1)]


class ActivateKernel(Kernel):
    """An element-wise activation."""

    def __init__(self, layer: Activate) -> None:
        self.apply, self.derive, self.needs_input = ACTIVATIONS[layer.function]

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """``f(x)``; saves what its derivative is a function of."""
        y = self.apply(x)
        return y, (x if self.needs_input else y,)

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """``f'(x) delta``."""
        return self.derive(delta, saved[0])


_aten = torch.ops.aten
# The function, its derivative times delta, and whether that is a function of the input (else of the output).
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor], bool]] = {
    "relu": (torch.relu, lambda delta, y: _aten.threshold_backward(delta, y, 0), False),
    "tanh": (torch.tanh, _aten.tanh_backward, False),
    "sigmoid": (torch.sigmoid, _aten.sigmoid_backward, False),
    "gelu": (torch.nn.functional.gelu, _aten.gelu_backward, True),
}


class DropKernel(Kernel):
    """Dropout by a mask of 0 and 1 / (1 - p)."""

    def __init__(self, layer: Drop, channels_last: bool) -> None:
        self.number, self.channels_last = layer.number, channels_last

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """``x`` times its mask."""
        mask = masks[self.number]
        if self.channels_last:
            mask = mask.reshape(*x.shape[:2], x.shape[-1], *x.shape[2:-1]).movedim(2, -1)
        else:
            mask = mask.reshape(x.shape)
        return x * mask, (mask,)

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """The gradient through the same mask."""
        return delta * saved[0]


class FlattenKernel(Kernel):
    """To one dimension, the channels first, as torch has it."""

    def __init__(self, layer: Flatten, channels_last: bool) -> None:
        self.shape, self.channels_last = layer.shape, channels_last

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """``[clients, batch, values]``."""
        return (x.movedim(-1, 2) if self.channels_last else x).flatten(2), ()

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """Back to the shape before."""
        image = delta.unflatten(2, self.shape)
        last: Tensor = image.movedim(2, -1).contiguous() if self.channels_last else image
        return last


class ChannelsLastKernel(Kernel):
    """From ``[channels, ...]`` to ``[..., channels]``, before the first layer on images."""

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """``[clients, batch, ..., channels]``."""
        return x.movedim(2, -1).contiguous(), ()

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """Back again."""
        return delta.movedim(-1, 2)
