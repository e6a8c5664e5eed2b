"""What a Flower strategy remembers from round to round, as tensors for a checkpoint."""

from __future__ import annotations

import json
import types
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from torch import Tensor

from fedsim.errors import FedsimError

# What holds no state of its own: the strategy that is made anew has the same.
CONSTANT = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)


class Unstorable(Exception):
    """A value is neither a number nor an array, nor made of them."""


def saved(strategy: object) -> dict[str, Tensor]:
    """All attributes of a strategy that are numbers, texts, arrays, or lists, tuples, dicts and records of these.

    ``form`` is how they are put together, and the names of what could not be saved, as JSON.
    """
    arrays: list[NDArray[Any]] = []
    forms, lost = {}, {}
    for name, value in vars(strategy).items():
        if isinstance(value, CONSTANT):
            continue
        try:
            forms[name] = _form(value, arrays)
        except Unstorable:
            lost[name] = type(value).__name__
    text = json.dumps({"forms": forms, "lost": lost}).encode()
    tensors = {str(number): torch.from_numpy(array.copy()) for number, array in enumerate(arrays)}
    return {"form": torch.frombuffer(bytearray(text), dtype=torch.uint8), **tensors}


def restore(strategy: object, tensors: dict[str, Tensor], name: str) -> None:
    """Give a strategy that was just made its attributes back; raises ``FedsimError`` if some could not be saved."""
    stored = json.loads(bytes(tensors["form"].tolist()))
    if stored["lost"]:
        lost = ", ".join(f"{attribute} ({kind})" for attribute, kind in stored["lost"].items())
        raise FedsimError(
            f'algorithm.strategy = "{name}": the run cannot be resumed, as a checkpoint holds no attributes of the '
            f"strategy but numbers, texts and arrays, and it has others: {lost}. Run the scenario again."
        )
    for attribute, form in stored["forms"].items():
        setattr(strategy, attribute, _value(form, tensors))


def _form(value: Any, arrays: list[NDArray[Any]]) -> dict[str, Any]:
    """How to build a value from JSON and the arrays, to which its own are added."""
    if value is None or isinstance(value, bool | int | float | str):
        return {"plain": value}
    if isinstance(value, np.ndarray | np.generic | Tensor):
        kind = "tensor" if isinstance(value, Tensor) else "scalar" if isinstance(value, np.generic) else "array"
        return {kind: _place(value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value), arrays)}
    if isinstance(value, Array):
        return {"flower": _place(value.numpy(), arrays)}
    if isinstance(value, ArrayRecord):
        return {"record": [[key, _form(item, arrays)] for key, item in value.items()]}
    if type(value) is dict and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, _form(item, arrays)] for key, item in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_form(item, arrays) for item in value]}
    raise Unstorable


def _place(array: NDArray[Any], arrays: list[NDArray[Any]]) -> int:
    if array.dtype.kind not in "bif":
        raise Unstorable
    arrays.append(array)
    return len(arrays) - 1


def _value(form: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """The value that a form describes."""
    ((kind, content),) = form.items()
    if kind == "plain":
        return content
    if kind in ("array", "scalar", "tensor", "flower"):
        array = tensors[str(content)].numpy().copy()
        make = {"array": array.view, "scalar": lambda: array[()], "flower": lambda: Array(array)}
        return torch.from_numpy(array) if kind == "tensor" else make[kind]()
    if kind in ("record", "dict"):
        pairs = {key: _value(item, tensors) for key, item in content}
        return ArrayRecord(pairs) if kind == "record" else pairs
    items = [_value(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
