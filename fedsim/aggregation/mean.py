"""The weighted mean (McMahan et al. 2017, arXiv 1602.05629)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Mean(Aggregator):
    """The weighted mean: a sum, which is all that the server gets to see."""

    kind: Literal["mean"] = "mean"
    needs_every_update: ClassVar[bool] = False

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """Their weighted mean."""
        return (weights / weights.sum()).to(updates.dtype) @ updates
