"""Multinomial logistic regression: the linear layer whose outputs are the classes' log-odds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fedsim.models.build import Signature
from fedsim.models.layers import Initialisation
from fedsim.models.linear import linear_layer
from fedsim.models.options import ModelOptions
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Logistic(ModelOptions):
    """Multinomial logistic regression: one linear layer, which starts at zero (Cox 1958)."""

    name: Literal["logistic"] = "logistic"
    initialisation: Literal["zero"] | Initialisation = "zero"

    def build(self, signature: Signature) -> nn.Module:
        """A module from ``[batch, *inputs]`` to ``[batch, outputs]``; raises ``BadInput`` if it is given tokens."""
        return linear_layer(self.name, signature)
