"""Multi-layer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import nn

from fedsim.models.build import Signature, check_numbers
from fedsim.models.layers import (
    ACTIVATIONS,
    Activation,
    Dropout,
    Initialisation,
    Normalisation,
    Probability,
    Width,
    normalisation_layers,
)
from fedsim.models.options import ModelOptions
from fedsim.settings import section

# Of two values without height and width, normalisation would leave nothing but which is larger.
GROUP = 8


def dense_head(
    widths: list[int], activation: Activation, dropout: float, normalisation: Normalisation = "none"
) -> list[nn.Module]:
    """Linear layers through ``widths``, each but the last followed by its normalisation, activation and dropout."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), *normalisation_layers(normalisation, outputs, GROUP)]
        layers += [ACTIVATIONS[activation](), Dropout(dropout)]
    return [*layers, nn.Linear(widths[-2], widths[-1])]


@section
@dataclass(frozen=True)
class Mlp(ModelOptions):
    """Fully connected layers of the widths in ``hidden``."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = (64,)
    activation: Activation = "relu"
    dropout: Probability = 0.0
    normalisation: Normalisation = "none"
    initialisation: Initialisation = "default"

    def build(self, signature: Signature) -> nn.Module:
        """A module from ``[batch, *inputs]`` to ``[batch, outputs]``; raises ``BadInput`` if it is given tokens."""
        check_numbers(self.name, signature)
        widths = [math.prod(signature.inputs), *self.hidden, math.prod(signature.outputs)]
        head = dense_head(widths, self.activation, self.dropout, self.normalisation)
        return nn.Sequential(nn.Flatten(), *head)
