"""The workloads: who trains what on which data, the same for every engine (needs torch and NumPy alone)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CLIENTS = 1000
EXAMPLES = 50  # of every client
BATCH = 10
STEPS = EXAMPLES // BATCH  # one local epoch
LEARNING_RATE = 0.1
CLASSES = 10
NOISE_MULTIPLIER = 1.0
CLIP_NORM = 1.0
SEED = 1234


@dataclass(frozen=True)
class Workload:
    """A model's name, the shape of one example, and how many clients train in a round."""

    name: str
    shape: tuple[int, ...]
    cohort: int


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("tiny", (64,), 100),
        Workload("mnist", (1, 28, 28), 50),
        Workload("cifar", (3, 32, 32), 50),
    )
}


def build_model(workload: str) -> nn.Sequential:
    """A new model, with torch's own first weights."""
    return {"tiny": _tiny, "mnist": _mnist, "cifar": _cifar}[workload]()


def seeded_model(workload: str, dropout: bool = True) -> nn.Sequential:
    """The model in training mode with the weights that every engine outside fedsim starts from.

    Global generators are left alone. Without ``dropout`` two engines must compute the same, which is how they are
    checked: Opacus refuses a model in evaluation mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        module = build_model(workload).train()
    for layer in module:
        if isinstance(layer, nn.Dropout) and not dropout:
            layer.p = 0.0
    return module


def _tiny() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def _mnist() -> nn.Sequential:
    """The model of Opacus' MNIST example."""
    first = nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2, 1)
    second = nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.MaxPool2d(2, 1)
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def _cifar() -> nn.Sequential:
    """The CIFAR-10 model of pfl-research's benchmarks."""
    convolutions = nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)
    dense = nn.Linear(12544, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES)
    return nn.Sequential(*convolutions, nn.Flatten(), *dense)


def make_data(workload: str, clients: int = CLIENTS) -> tuple[Tensor, Tensor]:
    """Features ``[clients, EXAMPLES, *shape]`` and labels ``[clients, EXAMPLES]`` of a noisy linear teacher."""
    shape, rng = WORKLOADS[workload].shape, torch.Generator().manual_seed(SEED)
    features = torch.randn(clients * EXAMPLES, *shape, generator=rng)
    flat = features.flatten(1)
    teacher = torch.randn(flat.shape[1], CLASSES, generator=rng) / flat.shape[1] ** 0.5
    scores = flat @ teacher + 0.5 * torch.randn(len(flat), CLASSES, generator=rng)
    return features.view(clients, EXAMPLES, *shape), scores.argmax(1).view(clients, EXAMPLES)


def save_data(workload: str, folder: Path) -> None:
    """Write the data where processes of their own can map it into memory, once."""
    folder.mkdir(parents=True, exist_ok=True)
    file = _file(workload, folder)
    if not file.exists():
        temporary = file.with_suffix(".part")
        torch.save(make_data(workload), temporary)
        os.replace(temporary, file)


def load_data(workload: str, folder: Path) -> tuple[Tensor, Tensor]:
    """The saved data, mapped: processes of one machine share it."""
    features, labels = torch.load(_file(workload, folder), mmap=True, weights_only=True)
    return features, labels


def _file(workload: str, folder: Path) -> Path:
    return folder / f"{workload}-{SEED}-{CLIENTS}x{EXAMPLES}.pt"


def draw_cohort(workload: str, number: int) -> NDArray[np.int64]:
    """The clients of round ``number``, drawn without replacement."""
    rng = np.random.default_rng((SEED, number))
    return np.sort(rng.choice(CLIENTS, WORKLOADS[workload].cohort, replace=False)).astype(np.int64)
