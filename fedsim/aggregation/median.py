"""The coordinate-wise median (Yin et al. 2018, arXiv 1803.01498)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.ranks import sorted_values
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Median(Aggregator):
    """The median of every parameter by itself; weights are not used."""

    kind: Literal["median"] = "median"

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """The middle value of each column, or the mean of the two in the middle."""
        result = torch.empty_like(updates[0])
        low, high = (len(updates) - 1) // 2, len(updates) // 2
        for part, values in sorted_values(updates):
            result[part] = values[:, low].lerp(values[:, high], 0.5)
        return result
