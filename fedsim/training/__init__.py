"""Training a block of clients: ``native``, ``vectorised`` (all at once) or ``opacus`` (one by one, the reference)."""

from __future__ import annotations

from fedsim.training.native import NativeTrainer
from fedsim.training.opacus import OpacusTrainer
from fedsim.training.pick import pick_trainer
from fedsim.training.trainer import Trainer
from fedsim.training.vectorised import VectorisedTrainer

TRAINERS: dict[str, type[Trainer]] = {
    "native": NativeTrainer,
    "vectorised": VectorisedTrainer,
    "opacus": OpacusTrainer,
}

__all__ = ["TRAINERS", "NativeTrainer", "OpacusTrainer", "Trainer", "VectorisedTrainer", "pick_trainer"]
