"""Norm bounding (Sun et al. 2019, arXiv 1911.07963)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.lengths import lengths
from fedsim.privacy.clipping import clip_factors
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True)
class NormBound(Aggregator):
    """The weighted mean of updates scaled down to a norm of at most ``bound``."""

    kind: Literal["norm_bound"] = "norm_bound"
    needs_every_update: ClassVar[bool] = False
    bound: Positive = 1.0

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """Their weighted mean."""
        factors = clip_factors(lengths(updates), self.bound)
        return (weights * factors / weights.sum()).to(updates.dtype) @ updates
