"""Optimizers by name, checked before a run and built on a flat vector or a stack of them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from fedsim.server_optimizers import SERVER_OPTIMIZERS

# Optimizers that treat every value on its own, so that a stack of clients [clients, params] trains as if one by one.
ELEMENTWISE = ("sgd", "adam", "adamw", "adamax", "nadam", "radam", "rmsprop", "adagrad", "adadelta", "asgd", "rprop")


def optimizer_classes() -> dict[str, type[torch.optim.Optimizer]]:
    """Lower-case name -> class, for the server's own and what ``torch.optim`` has of first order for a flat vector."""
    unfit = {"optimizer", "lbfgs", "sparseadam", "muon"}  # base class; needs closures, sparse gradients, matrices
    members = inspect.getmembers(torch.optim, inspect.isclass)
    return SERVER_OPTIMIZERS | {
        name.lower(): cls
        for name, cls in members
        if issubclass(cls, torch.optim.Optimizer) and name.lower() not in unfit
    }


def option_names(optimizer: str) -> list[str]:
    """Names that ``options`` may hold for an optimizer."""
    parameters = inspect.signature(optimizer_classes()[optimizer].__init__).parameters
    return [name for name in parameters if name not in ("self", "params", "lr")]


def server_learning_rate(optimizer: str) -> float | None:
    """The learning rate on pseudo-gradients where a scenario gives none; None for an optimizer that does not exist.

    The optimizer's own default, but 1 for SGD: the step of federated averaging.
    """
    if optimizer == "sgd":
        return 1.0
    cls = optimizer_classes().get(optimizer)
    return None if cls is None else float(inspect.signature(cls.__init__).parameters["lr"].default)


def build_optimizer(
    name: str, parameter: Tensor, learning_rate: float | None, options: dict[str, Any]
) -> torch.optim.Optimizer:
    """The optimizer on one flat parameter, at its own learning rate if none is given.

    Raises what torch raises when an option's value is impossible.
    """
    rate = options if learning_rate is None else {"lr": learning_rate} | options
    return optimizer_classes()[name]([parameter], **rate)
