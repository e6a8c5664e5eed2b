"""A model's frozen first layers, applied to every example once instead of in every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedsim.data import Dataset
from fedsim.models.layers import Dropout, dropout_layers
from fedsim.tasks import Objective, Task
from fedsim.training.tracing import NotAChain, layers_of

# So many examples at a time: what they become stays in a core's cache.
PIECE = 128
# Layers that give an example the same values in training, in evaluation, and in any batch.
FIXED = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.GroupNorm, nn.LayerNorm),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity),
    *(nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU),
)


def without_prefix(module: nn.Module, task: Task, most_bytes: float) -> tuple[nn.Module, Task]:
    """What is left to train, and the task whose features are what the frozen first layers make of the examples.

    The module and the task as they are where that is not possible, or where the features would take more than
    ``most_bytes``. Parameters are shared with ``module`` and lie in the same order in the flat vector.
    """
    if type(task.objective).labels is not Objective.labels:
        return module, task  # its labels may be made of the features
    fixed, rest = _split(module)
    if not fixed or not _same_order(module, rest):
        return module, task
    prefix = nn.Sequential(*fixed).eval()
    with torch.no_grad():
        values = prefix(task.signature.zeros(1, task.features.device)).numel()
    if 4 * values * (len(task.data.train) + len(task.data.test)) > most_bytes:
        return module, task
    return rest, _applied(prefix, task)


def _split(module: nn.Module) -> tuple[list[nn.Module], nn.Sequential]:
    """The first layers, as many as are fixed, and the rest; no first ones if none of them has parameters."""
    frozen = any(not p.requires_grad for p in module.parameters())
    try:
        layers = list(layers_of(module)) if frozen else []
    except NotAChain:
        layers = []
    count = next((i for i, layer in enumerate(layers) if not _fixed(layer)), 0)
    fixed = layers[:count]
    if not any(True for layer in fixed for _ in layer.parameters()):
        return [], nn.Sequential()
    return fixed, nn.Sequential(*layers[count:])


def _fixed(layer: nn.Module) -> bool:
    if isinstance(layer, Dropout):
        return layer.p == 0
    return type(layer) in FIXED and not any(p.requires_grad for p in layer.parameters())


def _same_order(module: nn.Module, rest: nn.Module) -> bool:
    """That the rest has all that trains or draws, in the module's order."""
    ours, theirs = ([p for p in part.parameters() if p.requires_grad] for part in (module, rest))
    same = len(ours) == len(theirs) and all(a is b for a, b in zip(ours, theirs, strict=True))
    return same and dropout_layers(module) == dropout_layers(rest)


def _applied(prefix: nn.Module, task: Task) -> Task:
    data, device = task.data, task.features.device
    train, test = (_features(prefix, part.features, device) for part in (data.train, data.test))
    cached = Dataset(
        replace(data.train, features=train), replace(data.test, features=test), data.names, data.kind, 0, data.owners
    )
    return replace(task, data=cached, features=torch.from_numpy(train).to(device))


@torch.no_grad()
def _features(prefix: nn.Module, examples: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    parts = torch.from_numpy(examples).split(PIECE)
    return torch.cat([prefix(part.to(device)).cpu() for part in parts]).numpy()
