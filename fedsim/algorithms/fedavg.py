"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms.base import Algorithm
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class FedAvg(Algorithm):
    """Plain local steps."""

    name: Literal["fedavg"] = "fedavg"

    def transform(
        self,
        gradient: Float[Tensor, "clients params"],
        weights: Float[Tensor, "clients params"],
        start: Float[Tensor, " params"],
    ) -> Float[Tensor, "clients params"]:
        """The gradient as it is."""
        return gradient
