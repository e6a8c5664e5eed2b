"""Centred clipping (Karimireddy et al. 2021, arXiv 2012.10333)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.lengths import distances_from
from fedsim.privacy.clipping import clip_factors
from fedsim.settings import Count, Positive, section


@section
@dataclass(frozen=True)
class CentredClipping(Aggregator):
    """Moves from the round before's result by the weighted mean of the updates' ways from it, each clipped.

    ``radius`` is the longest way of an update; ``iterations`` such moves are made, each from where the last one ended.
    """

    kind: Literal["centred_clipping"] = "centred_clipping"
    radius: Positive = 1.0
    iterations: Count = 1
    compares_with: ClassVar[Literal["previous", "root"] | None] = "previous"

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """The result of the moves, the first of which starts at ``reference``, or at zero."""
        centre = torch.zeros_like(updates[0]) if reference is None else reference.to(updates.dtype)
        shares = weights.double() / weights.double().sum()
        for _ in range(self.iterations):
            pulls = shares * clip_factors(distances_from(centre, updates), self.radius)
            centre = pulls.to(updates.dtype) @ updates + float(1 - pulls.sum()) * centre
        return centre
