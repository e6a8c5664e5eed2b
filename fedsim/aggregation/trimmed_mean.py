"""The coordinate-wise trimmed mean (Yin et al. 2018, arXiv 1803.01498)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.ranks import sorted_values
from fedsim.settings import section

# 0.29 of 100 is 29, not the number below 28.999999999999996.
ROUNDING = 1e-9


@section
@dataclass(frozen=True)
class TrimmedMean(Aggregator):
    """The mean of every parameter without the smallest and the largest ``share`` of its values; no weights."""

    kind: Literal["trimmed_mean"] = "trimmed_mean"
    share: Annotated[float, Field(ge=0, lt=0.5)] = 0.2

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """The mean of each column without ``share`` of its values, rounded down, at each end."""
        result = torch.empty_like(updates[0])
        cut = int(self.share * len(updates) + ROUNDING)
        for part, values in sorted_values(updates):
            result[part] = values[:, cut : len(updates) - cut].mean(1)
        return result
