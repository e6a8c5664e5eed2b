"""How far local SGD goes: what a gradient counts that stays the same over a client's steps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedsim.algorithms.base import Algorithm, LocalTraining
from fedsim.optimizers import build_optimizer


def effective_steps(local: LocalTraining, pull: float, steps: NDArray[np.int64]) -> Float[Tensor, " clients"]:
    """How many learning rates ``steps`` ``[clients]`` of local SGD lead away where every gradient is 1, in float64.

    The steps themselves, but for momentum and a ``pull`` to the start: |a_i|_1 of Wang et al. 2020, arXiv 2007.07481.
    """
    if not pull and not local.options.get("momentum"):
        return torch.from_numpy(steps.astype(np.float64))
    weight = torch.zeros(1, dtype=torch.float64)
    options = {name: value for name, value in local.options.items() if name != "weight_decay"}
    optimizer, distance = build_optimizer("sgd", weight, local.learning_rate, options), [0.0]
    for _ in range(int(steps.max(initial=0))):
        weight.grad = 1 + pull * weight
        optimizer.step()
        distance.append(-float(weight) / local.learning_rate)
    return torch.tensor(distance, dtype=torch.float64)[torch.from_numpy(steps)]


def needs_sgd(algorithm: Algorithm, why: str) -> Iterator[str]:
    """The objection to any other local optimizer."""
    if algorithm.local.optimizer != "sgd":
        yield f'algorithm.local.optimizer = "{algorithm.local.optimizer}": {why}; use "sgd"'


def needs_uniform_weights(algorithm: Algorithm, why: str) -> Iterator[str]:
    """The objection to weighting clients by their records."""
    if algorithm.weighting == "examples":
        yield f'algorithm.weighting = "examples": {why}; use "uniform" or leave it out'


def needs_public_steps(algorithm: Algorithm, client_level: bool, what: str) -> Iterator[str]:
    """The objection to epochs under client-level privacy, where they would say nothing of a path's length."""
    if client_level and algorithm.local.steps is None:
        yield (
            f"algorithm.local.epochs = {algorithm.local.epochs}: with [privacy.client] {what} is clipped together with "
            "the update, in units of a round's path, whose number of steps must then be public; set "
            "algorithm.local.steps"
        )
