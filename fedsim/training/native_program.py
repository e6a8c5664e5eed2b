"""A model as the rows of numbers that the C++ of ``fedsim/native`` reads."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedsim.tasks import Task
from fedsim.training.program import Activate, Conv, Dense, Drop, Flatten, Layer, MaxPool, Norm, program_of
from fedsim.training.work import threshold

# A batch goes through the layers in pieces of at most so many examples, which stay in the cache.
PIECE = 16
DENSE, CONV, POOL, NORM, ACTIVATE, DROP, FLATTEN = range(7)
FUNCTIONS = ("relu", "tanh", "sigmoid", "gelu")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Description:
    """A program as the rows of numbers that net.h reads, and the border of zeros around each layer's input."""

    fields: Ints
    numbers: NDArray[np.float64]
    borders: Ints

    @classmethod
    def of(cls, module: nn.Module, task: Task) -> Description:
        """Raises ``NotAChain`` where net.h has no such layer."""
        rows: list[list[int]] = []
        numbers: list[float] = []
        borders: list[tuple[int, int]] = []
        shape = task.data.shape
        for layer in program_of(module, shape).layers:
            if isinstance(layer, Flatten) and (not rows or shape[1:] == (1, 1)):
                shape = (math.prod(shape),)  # the data are in torch's order already
                continue
            result = _result(layer, shape)
            rows.append([_kind(layer), *_three(shape), *_three(result), *_options(layer)])
            numbers.append(_number(layer))
            borders.append(layer.padding if isinstance(layer, Conv) else (0, 0))
            shape = result
        return cls(np.array(rows, np.int64), np.array(numbers), np.array(borders, np.int64))

    def open(self, native: ctypes.CDLL, private: bool, workers: int) -> int:
        """A handle on the model for so many threads; raises ``MemoryError``."""
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (self.fields, self.numbers, self.borders)]
        sizes = [ctypes.c_int64(value) for value in (len(self.fields), PIECE, private, workers)]
        handle: int | None = native.fedsim_open(pointers[0], pointers[1], sizes[0], pointers[2], *sizes[1:])
        if handle is None:
            raise MemoryError("in the native trainer")
        return handle


def _kind(layer: Layer) -> int:
    kinds: dict[type, int] = {
        Dense: DENSE,
        Conv: CONV,
        MaxPool: POOL,
        Norm: NORM,
        Activate: ACTIVATE,
        Drop: DROP,
        Flatten: FLATTEN,
    }
    return kinds[type(layer)]


def _result(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(layer, Dense):
        return (layer.outputs,)
    if isinstance(layer, Flatten):
        return (math.prod(shape),)
    return layer.result if isinstance(layer, Conv | MaxPool) else shape


def _three(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Channels, height and width; a vector is an image of one pixel."""
    return (*shape, 1, 1)[:3]


def _options(layer: Layer) -> list[int]:
    """Kernel, stride, option, weight and bias."""
    kernel, stride, option = (0, 0), (0, 0), 0
    if isinstance(layer, Conv | MaxPool):
        kernel, stride = layer.kernel, layer.stride
    if isinstance(layer, Norm):
        kernel, option = (int(layer.whole), 0), layer.groups
    if isinstance(layer, Activate):
        option = FUNCTIONS.index(layer.function)
    if isinstance(layer, Drop):
        option = threshold(layer.p)
    places = (getattr(layer, "weight", None), getattr(layer, "bias", None))
    return [*kernel, *stride, option, *(-1 if place is None else place for place in places)]


def _number(layer: Layer) -> float:
    return layer.epsilon if isinstance(layer, Norm) else layer.p if isinstance(layer, Drop) else 0.0
