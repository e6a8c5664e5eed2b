"""Kernels for images ``[clients, batch, height, width, channels]``: convolution, max-pooling and normalisation."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fedsim.training.kernels import Kernel, Saved, Slot, Tensors
from fedsim.training.program import Conv, MaxPool, Norm

_aten = torch.ops.aten


class UnfoldedConv(Kernel):
    """Convolution as one product per client with the unfolded image (im2col), for small images and for GPUs."""

    def __init__(self, layer: Conv) -> None:
        self.layer = layer
        channels, outputs = layer.shape[0], layer.result[0]
        weight = Slot(layer.weight, (outputs, channels, *layer.kernel), (0, 2, 3, 1))
        self.slots = (weight,) if layer.bias is None else (weight, Slot(layer.bias, (outputs,)))

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """The convolution; saves the unfolded image ``[clients, batch * places, kernel values]``."""
        columns, weight = self.unfold(x), parameters[0].flatten(2).transpose(1, 2)
        if len(parameters) == 1:
            y = torch.bmm(columns, weight)
        else:
            y = torch.baddbmm(parameters[1].unsqueeze(1), columns, weight)
        return y.view(*x.shape[:2], *self.layer.result[1:], -1), (columns,)

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """The gradient of the unfolded image, folded back."""
        columns = torch.bmm(delta.flatten(1, 3), parameters[0].flatten(2))
        return self.fold(columns.view(*delta.shape[:4], *self.layer.kernel, -1))

    def gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """Sums over examples and places."""
        flat = delta.flatten(1, 3)
        weight = torch.bmm(flat.transpose(1, 2), saved[0]).view(len(flat), flat.shape[2], *self.layer.kernel, -1)
        return [weight, flat.sum(1)][: len(self.slots)]

    def descend(self, parameters: Tensors, saved: Saved, delta: Tensor, rate: float) -> None:
        """A step of gradient descent."""
        flat = delta.flatten(1, 3)
        parameters[0].flatten(2).baddbmm_(flat.transpose(1, 2), saved[0], alpha=-rate)
        if len(parameters) > 1:
            parameters[1].sub_(flat.sum(1), alpha=rate)

    def example_gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """Sums over the places of each example, the outputs last: one product per example."""
        clients, batch = delta.shape[:2]
        flat = delta.reshape(clients * batch, -1, delta.shape[-1])
        columns = saved[0].view(clients * batch, flat.shape[1], -1)
        weight = torch.bmm(columns.transpose(1, 2), flat)
        shape = (clients, batch, *self.layer.kernel, self.layer.shape[0], flat.shape[2])
        return [weight.view(shape), flat.sum(1).view(clients, batch, -1)][: len(self.slots)]

    def weighted(self, saved: Saved, delta: Tensor, own: Tensors, factors: Tensors, bad: Tensor | None) -> Tensors:
        """As for any kernel, the outputs first again."""
        weight, *bias = super().weighted(saved, delta, own, factors, bad)
        return [weight.movedim(-1, 1), *bias]

    def unfold(self, x: Tensor) -> Tensor:
        """``[clients, batch * places, kernel height * kernel width * channels]``; a row of the kernel is one run."""
        (kernel_h, kernel_w), (stride_h, stride_w) = self.layer.kernel, self.layer.stride
        x = _padded(x, self.layer).contiguous()
        client, example, row, column, _ = x.stride()
        shape = (*x.shape[:2], *self.layer.result[1:], kernel_h, kernel_w * x.shape[4])
        view = x.as_strided(shape, (client, example, row * stride_h, column * stride_w, row, 1))
        return view.reshape(len(x), -1, kernel_h * shape[-1])

    def fold(self, columns: Tensor) -> Tensor:
        """The transpose of ``unfold``: every value of ``[clients, batch, h, w, *kernel, channels]`` to its place.

        As many columns of the kernel at a time as the stride keeps apart.
        """
        layer, (_, _, high, wide, kernel_h, kernel_w, channels) = self.layer, columns.shape
        (stride_h, stride_w), (pad_h, pad_w), (_, height, width) = layer.stride, layer.padding, layer.shape
        image = columns.new_zeros(*columns.shape[:2], height + 2 * pad_h, width + 2 * pad_w, channels)
        client, example, row, column, _ = image.stride()
        for i in range(kernel_h):
            for j in range(0, kernel_w, stride_w):
                run = min(stride_w, kernel_w - j) * channels
                target = image.as_strided(
                    (*columns.shape[:2], high, wide, run),
                    (client, example, row * stride_h, column * stride_w, 1),
                    i * row + j * column,
                )
                target += columns[:, :, :, :, i].flatten(4)[..., j * channels : j * channels + run]
        return image[:, :, pad_h : pad_h + height, pad_w : pad_w + width]


def _padded(x: Tensor, layer: Conv) -> Tensor:
    pad_h, pad_w = layer.padding
    return functional.pad(x, (0, 0, pad_w, pad_w, pad_h, pad_h)) if pad_h or pad_w else x


class DirectConv(Kernel):
    """Convolution client by client with torch's own, which is fastest for large images on a CPU."""

    def __init__(self, layer: Conv) -> None:
        self.layer, self.unfolded = layer, UnfoldedConv(layer)
        weight = Slot(layer.weight, (layer.result[0], layer.shape[0], *layer.kernel))
        self.slots = (weight, *self.unfolded.slots[1:])

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """The convolution; saves ``x`` and the weights' shape."""
        bias = parameters[1] if len(parameters) > 1 else [None] * len(x)
        own = [
            functional.conv2d(image, weight, b, self.layer.stride, self.layer.padding)
            for image, weight, b in zip(x.movedim(-1, 2), parameters[0], bias, strict=True)
        ]
        return _stacked(own), (x, parameters[0])

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """The transposed convolution."""
        return _stacked([found[0] for found in self._backward(saved, delta, (True, False, False))])

    def gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """Sums over examples and places."""
        own = self._backward(saved, delta, (False, True, len(self.slots) > 1))
        return [torch.stack([g[i] for g in own]) for i in range(1, 1 + len(self.slots))]

    def example_gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """By unfolding: torch's own is slower for single examples."""
        return self.unfolded.example_gradients((self.unfolded.unfold(saved[0]),), delta)

    def weighted(self, saved: Saved, delta: Tensor, own: Tensors, factors: Tensors, bad: Tensor | None) -> Tensors:
        """As the unfolded convolution, in torch's order."""
        weight, *bias = self.unfolded.weighted(saved, delta, own, factors, bad)
        return [weight.movedim(-1, 2), *bias]

    def _backward(self, saved: Saved, delta: Tensor, wanted: tuple[bool, bool, bool]) -> list[Any]:
        layer = self.layer
        return [
            _aten.convolution_backward(
                d, x, weight, [layer.result[0]], layer.stride, layer.padding, [1, 1], False, [0, 0], 1, wanted
            )
            for d, x, weight in zip(delta.movedim(-1, 2), saved[0].movedim(-1, 2), saved[1], strict=True)
        ]


def _stacked(images: Tensors) -> Tensor:
    """``[clients, batch, height, width, channels]`` from each client's ``[batch, channels, height, width]``."""
    if len(images) == 1:
        return images[0].movedim(1, -1).contiguous().unsqueeze(0)
    return torch.stack([image.movedim(1, -1) for image in images])


class PoolKernel(Kernel):
    """Max-pooling; the first of equal values gets the gradient, as in torch."""

    def __init__(self, layer: MaxPool) -> None:
        self.layer = layer

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """The maxima; saves where they were."""
        images = x.flatten(0, 1).movedim(-1, 1)
        y, where = _aten.max_pool2d_with_indices(images, self.layer.kernel, self.layer.stride)
        return y.movedim(1, -1).unflatten(0, x.shape[:2]).contiguous(), (images, where)

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """Delta where the maxima were."""
        d, (images, where) = delta.flatten(0, 1).movedim(-1, 1), saved
        back = _aten.max_pool2d_with_indices_backward(
            d, images, self.layer.kernel, self.layer.stride, [0, 0], [1, 1], False, where
        )
        return back.movedim(1, -1).unflatten(0, delta.shape[:2]).contiguous()  # type: ignore[no-any-return]


class NormKernel(Kernel):
    """Group normalisation (Wu and He 2018, arXiv 1803.08494) and layer normalisation (Ba et al. 2016, 1607.06450)."""

    def __init__(self, layer: Norm) -> None:
        self.layer = layer
        channels, spatial = layer.shape[0], layer.shape[1:]
        self.shape = (*spatial, channels)
        whole = (*range(1, len(layer.shape)), 0) if len(layer.shape) > 1 else None
        starts = [start for start in (layer.weight, layer.bias) if start is not None]
        self.slots = tuple(Slot(at, layer.shape, whole) if layer.whole else Slot(at, (channels,)) for at in starts)

    def forward(self, parameters: Tensors, x: Tensor, masks: Tensors) -> tuple[Tensor, Saved]:
        """Normalised within each group, then scaled and shifted; saves the normalised values and their scale."""
        groups = self._grouped(x)
        centred = groups - groups.mean((2, 4), keepdim=True)
        scale = (centred.square().mean((2, 4), keepdim=True) + self.layer.epsilon).rsqrt()
        normal = (centred * scale).view(x.shape)
        y, rest = normal, list(parameters)
        if self.layer.weight is not None:
            y = y * self._spread(rest.pop(0))
        if self.layer.bias is not None:
            y = y + self._spread(rest.pop(0))
        return y, (normal, scale)

    def backward(self, parameters: Tensors, saved: Saved, delta: Tensor) -> Tensor:
        """Delta without its mean and its part along the normalised values."""
        normal, scale = saved
        if self.layer.weight is not None:
            delta = delta * self._spread(parameters[0])
        d, n = self._grouped(delta), self._grouped(normal)
        along = (d * n).mean((2, 4), keepdim=True)
        return ((d - d.mean((2, 4), keepdim=True) - n * along) * scale).view(delta.shape)

    def gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """Sums over the examples."""
        return [gradient.sum(1) for gradient in self.example_gradients(saved, delta)]

    def example_gradients(self, saved: Saved, delta: Tensor) -> Tensors:
        """Sums over the places of each example; for layer normalisation every value is a parameter."""
        own = [delta * saved[0]] if self.layer.weight is not None else []
        own += [delta] if self.layer.bias is not None else []
        return own if self.layer.whole or len(self.shape) == 1 else [g.flatten(2, -2).sum(2) for g in own]

    def _grouped(self, x: Tensor) -> Tensor:
        """``[clients, batch, places, groups, channels of a group]``."""
        return x.reshape(*x.shape[:2], math.prod(self.shape[:-1]), self.layer.groups, -1)

    def _spread(self, parameter: Tensor) -> Tensor:
        """Against ``[clients, batch, ...]``: ``[clients, 1, ...]``."""
        return parameter.reshape(len(parameter), *[1] * (2 + len(self.shape) - parameter.dim()), *parameter.shape[1:])
