"""The geometric median, RFA (Pillutla et al. 2022, arXiv 1912.13445)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.krum import shortening, squared_distances
from fedsim.aggregation.lengths import lengths
from fedsim.settings import Count, Positive, section


@section
@dataclass(frozen=True)
class GeometricMedian(Aggregator):
    """The point of the least weighted sum of distances, by ``iterations`` of the smoothed Weiszfeld algorithm."""

    kind: Literal["geometric_median"] = "geometric_median"
    iterations: Count = 10
    smoothing: Positive = 1e-6

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """Weighted means, each weighing an update by the inverse of its distance from the mean before.

        Updates that are longer than all others by far are shortened: as for a median, their direction alone counts.
        A mean's distance from an update follows from the updates' distances alone: they are looked at twice, in all.
        """
        between = squared_distances(updates)
        weights = weights.double()
        shares = weights / weights.sum()
        for _ in range(self.iterations):
            to_others = between @ shares
            distances = (to_others - shares @ to_others / 2).clamp(min=self.smoothing**2).sqrt()
            pulls = weights / distances
            shares = pulls / pulls.sum()
        return (shares * shortening(lengths(updates))).to(updates.dtype) @ updates
