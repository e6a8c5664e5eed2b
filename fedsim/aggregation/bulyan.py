"""Bulyan (El Mhamdi et al. 2018, arXiv 1802.07927)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.krum import Attackers, krum_scores, least, squared_distances
from fedsim.aggregation.ranks import sorted_values
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Bulyan(Aggregator):
    """Picks updates by Krum one after the other, then averages each parameter's values nearest to their median."""

    kind: Literal["bulyan"] = "bulyan"
    attackers: Attackers = 1

    @property
    def least(self) -> int:
        """What its theorem needs."""
        return 4 * self.attackers + 3

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """Of ``n - 2 f`` updates picked, the mean of the ``n - 4 f`` values nearest to the median of each column."""
        picked = updates[self._picks(squared_distances(updates))]
        result, kept = torch.empty_like(updates[0]), len(updates) - 4 * self.attackers
        for part, values in sorted_values(picked):
            result[part] = nearest_mean(values, kept)
        return result

    def _picks(self, distances: Tensor) -> Tensor:
        """``n - 2 f`` times the update of Krum's least score among those that are left."""
        left = list(range(len(distances)))
        picks = []
        for _ in range(len(distances) - 2 * self.attackers):
            best = left[least(krum_scores(distances[left][:, left], self.attackers))]
            picks.append(best)
            left.remove(best)
        return torch.tensor(picks, device=distances.device)


def nearest_mean(values: Float[Tensor, "params clients"], kept: int) -> Float[Tensor, " params"]:
    """Of values in order, the mean of the ``kept`` ones nearest to the median: they follow one another."""
    clients = values.shape[1]
    median = values[:, (clients - 1) // 2].lerp(values[:, clients // 2], 0.5)
    # Of all such windows, the one whose farther end is nearest. It is added up by itself: of a running sum that a huge
    # value has gone through no digit is left.
    best = torch.zeros(len(values), 1, dtype=torch.int64, device=values.device)
    reach = torch.maximum(median - values[:, 0], values[:, kept - 1] - median)
    for first in range(1, clients - kept + 1):
        farther = torch.maximum(median - values[:, first], values[:, first + kept - 1] - median)
        best[farther < reach] = first
        reach = torch.minimum(reach, farther)
    window = values.gather(1, best + torch.arange(kept, device=values.device))
    return window.mean(1, dtype=torch.float64).to(values.dtype)
