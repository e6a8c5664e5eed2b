"""``torch.optim`` optimizers by name, checked before a run and built on a flat vector or a stack of them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

# Optimizers that treat every value on its own, so that a stack of clients [clients, params] trains as if one by one.
ELEMENTWISE = ("sgd", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "asgd", "rprop")


def optimizer_classes() -> dict[str, type[torch.optim.Optimizer]]:
    """Lower-case name -> class, for every first-order optimizer in ``torch.optim`` that accepts one flat vector."""
    unfit = {"optimizer", "lbfgs", "sparseadam", "muon"}  # base class; needs closures, sparse gradients, matrices
    members = inspect.getmembers(torch.optim, inspect.isclass)
    return {
        name.lower(): cls
        for name, cls in members
        if issubclass(cls, torch.optim.Optimizer) and name.lower() not in unfit
    }


def option_names(optimizer: str) -> list[str]:
    """Names that ``options`` may hold for an optimizer."""
    parameters = inspect.signature(optimizer_classes()[optimizer].__init__).parameters
    return [name for name in parameters if name not in ("self", "params", "lr")]


def build_optimizer(
    name: str, parameter: Tensor, learning_rate: float, options: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer on one flat parameter; raises what torch raises when an option's value is impossible."""
    return optimizer_classes()[name]([parameter], lr=learning_rate, **options)  # type: ignore[call-arg]
