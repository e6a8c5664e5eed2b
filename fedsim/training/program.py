"""A model as a chain of known layers, which the fast trainers compute without autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fedsim.models.layers import Dropout, dropout_layers
from fedsim.training.tracing import NotAChain, layers_of

__all__ = ["NotAChain", "program_of"]

Shape = tuple[int, ...]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Dense:
    """``y = W x + b``; ``weight`` ``[outputs, inputs]`` and ``bias`` start at these places of the flat vector."""

    inputs: int
    outputs: int
    weight: int
    bias: int | None


@dataclass(frozen=True)
class Conv:
    """2-d convolution from ``shape`` ``[channels, height, width]`` to ``result``, kernel ``[out, in, *kernel]``."""

    shape: Shape
    result: Shape
    kernel: Pair
    stride: Pair
    padding: Pair
    weight: int
    bias: int | None


@dataclass(frozen=True)
class MaxPool:
    """2-d max-pooling without padding from ``shape`` to ``result`` ``[channels, height, width]``."""

    shape: Shape
    result: Shape
    kernel: Pair
    stride: Pair


@dataclass(frozen=True)
class Norm:
    """Group normalisation over ``groups`` of the channels of ``shape``; layer normalisation is ``whole``.

    ``whole``: one group, and a scale and a shift for every value instead of every channel.
    """

    shape: Shape
    groups: int
    epsilon: float
    weight: int | None
    bias: int | None
    whole: bool = False


@dataclass(frozen=True)
class Activate:
    """An element-wise activation of ``size`` values: relu, tanh, sigmoid or gelu."""

    function: str
    size: int


@dataclass(frozen=True)
class Drop:
    """Dropout of ``size`` values; ``number`` is the layer's place among the model's dropout layers."""

    p: float
    size: int
    number: int


@dataclass(frozen=True)
class Flatten:
    """From ``shape`` to one dimension; nothing moves."""

    shape: Shape


Layer = Dense | Conv | MaxPool | Norm | Activate | Drop | Flatten

ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.GELU: "gelu"}


@dataclass(frozen=True)
class Program:
    """The layers in order, the shape of an example, the number of outputs and of parameters."""

    layers: tuple[Layer, ...]
    shape: Shape
    outputs: int
    size: int


def program_of(module: nn.Module, shape: Shape) -> Program:
    """The program of a module for examples of ``shape``; raises ``NotAChain``."""
    places = _places(module)
    dropouts, unused, here = dropout_layers(module), set(module.parameters()), shape
    layers: list[Layer] = []
    seen = set[nn.Module]()
    for child in layers_of(module):
        own = set(child.parameters())
        if child in seen and (own or child in dropouts):
            raise NotAChain("it uses a layer twice")
        if not own <= unused:
            raise NotAChain("two of its layers share a parameter")
        seen.add(child)
        unused -= own
        number = dropouts.index(child) if isinstance(child, Dropout) and child.p > 0 else 0
        layer, here = _layer(child, here, places, number)
        layers += [layer] if layer is not None else []
    if unused:
        raise NotAChain("it does not use all of its parameters")
    if len(here) != 1:
        raise NotAChain("it does not end in one vector per example")
    return Program(tuple(layers), shape, here[0], sum(p.numel() for p in places))


def _places(module: nn.Module) -> dict[Tensor, int]:
    """Where each parameter starts in the flat vector."""
    places: dict[Tensor, int] = {}
    at = 0
    for parameter in module.parameters():
        if not parameter.requires_grad:
            raise NotAChain("some of its parameters are frozen")
        places[parameter] = at
        at += parameter.numel()
    if not places:
        raise NotAChain("it has no parameters")
    return places


def _layer(module: nn.Module, shape: Shape, places: dict[Tensor, int], number: int) -> tuple[Layer | None, Shape]:
    """The layer and the shape of what it returns; None for a layer that does nothing."""
    kind = type(module)
    if isinstance(module, nn.Linear) and kind is nn.Linear:
        return _dense(module, shape, places)
    if isinstance(module, nn.Conv2d) and kind is nn.Conv2d:
        return _conv(module, shape, places)
    if isinstance(module, nn.MaxPool2d) and kind is nn.MaxPool2d:
        return _pool(module, shape)
    if isinstance(module, nn.GroupNorm | nn.LayerNorm) and kind in (nn.GroupNorm, nn.LayerNorm):
        return _norm(module, shape, places), shape
    if kind in ACTIVATIONS and getattr(module, "approximate", "none") == "none":
        return Activate(ACTIVATIONS[kind], math.prod(shape)), shape
    if isinstance(module, Dropout):
        return (Drop(module.p, math.prod(shape), number) if module.p > 0 else None), shape
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
        return Flatten(shape), (math.prod(shape),)
    if kind is nn.Identity:
        return None, shape
    raise NotAChain(f"no fast kernel for {kind.__name__}")


def _dense(module: nn.Linear, shape: Shape, places: dict[Tensor, int]) -> tuple[Layer, Shape]:
    if len(shape) != 1:
        raise NotAChain("a Linear layer is applied to more than one vector per example")
    if shape != (module.in_features,):
        raise NotAChain("a Linear layer does not fit the values before it")
    bias = None if module.bias is None else places[module.bias]
    return Dense(module.in_features, module.out_features, places[module.weight], bias), (module.out_features,)


def _conv(module: nn.Conv2d, shape: Shape, places: dict[Tensor, int]) -> tuple[Layer, Shape]:
    plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str):
        raise NotAChain("a convolution with groups, dilation or unusual padding")
    _check_image(shape)
    kernel, stride, padding = (_pair(v) for v in (module.kernel_size, module.stride, module.padding))
    height, width = (
        (side + 2 * p - k) // s + 1 for side, p, k, s in zip(shape[1:], padding, kernel, stride, strict=True)
    )
    result = (module.out_channels, height, width)
    bias = None if module.bias is None else places[module.bias]
    return Conv(shape, result, kernel, stride, padding, places[module.weight], bias), result


def _pool(module: nn.MaxPool2d, shape: Shape) -> tuple[Layer, Shape]:
    plain = _pair(module.padding) == (0, 0) and _pair(module.dilation) == (1, 1)
    if not plain or module.ceil_mode or module.return_indices:
        raise NotAChain("a max-pooling with padding, dilation or ceil_mode")
    _check_image(shape)
    kernel, stride = _pair(module.kernel_size), _pair(module.stride)
    height, width = ((side - k) // s + 1 for side, k, s in zip(shape[1:], kernel, stride, strict=True))
    result = (shape[0], height, width)
    return MaxPool(shape, result, kernel, stride), result


def _norm(module: nn.GroupNorm | nn.LayerNorm, shape: Shape, places: dict[Tensor, int]) -> Layer:
    weight, bias = (None if p is None else places[p] for p in (module.weight, module.bias))
    if isinstance(module, nn.GroupNorm):
        return Norm(shape, module.num_groups, module.eps, weight, bias)
    if tuple(module.normalized_shape) != shape:
        raise NotAChain("a LayerNorm over a part of the example")
    return Norm(shape, 1, module.eps, weight, bias, whole=True)


def _check_image(shape: Shape) -> None:
    if len(shape) != 3:
        raise NotAChain("a layer for images is applied to something else")


def _pair(value: int | Sequence[int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
