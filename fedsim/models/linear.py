"""Linear regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

from fedsim.models.build import Signature, check_numbers
from fedsim.models.layers import Initialisation
from fedsim.models.options import ModelOptions
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Linear(ModelOptions):
    """Linear regression: one linear layer, which starts at zero (Legendre 1805)."""

    name: Literal["linear"] = "linear"
    initialisation: Literal["zero"] | Initialisation = "zero"

    def build(self, signature: Signature) -> nn.Module:
        """A module from ``[batch, *inputs]`` to ``[batch, outputs]``; raises ``BadInput`` if it is given tokens."""
        return linear_layer(self.name, signature)


def linear_layer(name: str, signature: Signature) -> nn.Module:
    """Every value of an example, times a weight for each output."""
    check_numbers(name, signature)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(signature.inputs), math.prod(signature.outputs)))
