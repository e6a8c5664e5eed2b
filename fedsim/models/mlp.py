"""Multi-layer perceptron."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from fedsim.models.build import Signature
from fedsim.models.layers import ACTIVATIONS, Activation, Dropout, Initialisation
from fedsim.models.options import ModelOptions
from fedsim.settings import section

Width = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]


def dense_head(widths: list[int], activation: Activation, dropout: float) -> list[nn.Module]:
    """Linear layers through ``widths``, each but the last followed by its activation and dropout."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation](), Dropout(dropout)]
    return layers[:-2]


@section
@dataclass(frozen=True)
class Mlp(ModelOptions):
    """Fully connected layers of the widths in ``hidden``."""

    name: Literal["mlp"] = "mlp"
    hidden: tuple[Width, ...] = (64,)
    activation: Activation = "relu"
    dropout: Probability = 0.0
    initialisation: Initialisation = "default"

    def build(self, signature: Signature) -> nn.Module:
        """A module from ``[batch, *inputs]`` to ``[batch, outputs]``."""
        widths = [math.prod(signature.inputs), *self.hidden, math.prod(signature.outputs)]
        head = dense_head(widths, self.activation, self.dropout)
        return nn.Sequential(nn.Flatten(), *head)
