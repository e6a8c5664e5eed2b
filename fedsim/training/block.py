"""Local training of a block of clients: the same loop for every trainer, algorithm and optimizer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms import Algorithm
from fedsim.optimizers import build_optimizer
from fedsim.training.gradients import Gradients
from fedsim.training.work import ClientWork, make_batch


def train_block(
    gradients: Gradients, algorithm: Algorithm, start: Float[Tensor, " params"], works: list[ClientWork]
) -> Float[Tensor, "clients params"]:
    """Train every client from ``start`` and return the updates (weights after minus before), in the order of ``works``.

    Clients are sorted by their number of steps, so the clients that still train are always the first rows of the stack.
    """
    order = sorted(range(len(works)), key=lambda i: -len(works[i].batches))
    queue = [works[i] for i in order]
    finished = torch.empty(len(works), start.numel(), dtype=start.dtype, device=start.device)
    weights = start.repeat(len(works), 1)
    optimizer = build_optimizer(
        algorithm.local.optimizer, weights, algorithm.local.learning_rate, algorithm.local.options
    )
    for step in range(len(queue[0].batches)):
        active = sum(len(work.batches) > step for work in queue)
        if active < len(weights):
            finished[active : len(weights)] = weights[active:]
            weights = _keep_first(optimizer, weights, active)
        batch = make_batch(gradients.task, queue[:active], step, gradients.dropout_layers, gradients.dropout_shapes)
        compute = gradients.plain if queue[0].mechanism is None else gradients.private
        weights.grad = algorithm.transform(compute(weights, batch), weights, start)
        optimizer.step()
    finished[: len(weights)] = weights
    updates = torch.empty_like(finished)
    updates[order] = finished - start
    return updates


def _keep_first(optimizer: torch.optim.Optimizer, weights: Tensor, active: int) -> Tensor:
    """Go on with the first rows only: their weights and their part of the optimizer's state."""
    kept = weights[:active].clone()
    state = optimizer.state.pop(weights, {})
    optimizer.state[kept] = {
        name: value[:active].clone() if isinstance(value, Tensor) and value.shape == weights.shape else value
        for name, value in state.items()
    }
    optimizer.param_groups[0]["params"] = [kept]
    return kept
