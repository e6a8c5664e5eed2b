"""The geometric median, RFA (Pillutla et al. 2022, arXiv 1912.13445)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.settings import Count, Positive, section


@section
@dataclass(frozen=True)
class GeometricMedian(Aggregator):
    """The point of the least weighted sum of distances, by ``iterations`` of the smoothed Weiszfeld algorithm."""

    kind: Literal["geometric_median"] = "geometric_median"
    iterations: Count = 10
    smoothing: Positive = 1e-6

    def aggregate(
        self, updates: Float[Tensor, "clients params"], weights: Float[Tensor, " clients"]
    ) -> Float[Tensor, " params"]:
        """Weighted means, each weighing an update by the inverse of its distance from the mean before."""
        shares = weights.double() / weights.double().sum()
        centre = shares.to(updates.dtype) @ updates
        for _ in range(self.iterations):
            distances = torch.linalg.vector_norm(updates - centre, dim=1, dtype=torch.float64)
            pulls = shares / distances.clamp(min=self.smoothing)
            centre = (pulls / pulls.sum()).to(updates.dtype) @ updates
        return centre
