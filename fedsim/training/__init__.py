"""Training a block of clients: ``vectorised`` (all at once) or ``opacus`` (one by one, the reference)."""

from __future__ import annotations

from fedsim.training.block import train_block
from fedsim.training.gradients import Gradients
from fedsim.training.opacus import OpacusGradients
from fedsim.training.pick import pick_trainer
from fedsim.training.vectorised import VectorisedGradients

TRAINERS: dict[str, type[Gradients]] = {
    "vectorised": VectorisedGradients,
    "opacus": OpacusGradients,
}

__all__ = ["TRAINERS", "Gradients", "OpacusGradients", "VectorisedGradients", "pick_trainer", "train_block"]
