"""Bulyan (El Mhamdi et al. 2018, arXiv 1802.07927)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.krum import Attackers, krum_scores, squared_distances
from fedsim.aggregation.ranks import sorted_chunks
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
        self, updates: Float[Tensor, "clients params"], weights: Float[Tensor, " clients"]
    ) -> Float[Tensor, " params"]:
        """Of ``n - 2 f`` updates picked, the mean of the ``n - 4 f`` values nearest to the median of each column."""
        picked = updates[self._picks(squared_distances(updates))]
        result, kept = torch.empty_like(updates[0]), len(updates) - 4 * self.attackers
        for part, rows in sorted_chunks(picked):
            result[part] = nearest_mean(rows, kept)
        return result

    def _picks(self, distances: Tensor) -> Tensor:
        """``n - 2 f`` times the update of Krum's least score among those that are left."""
        left = list(range(len(distances)))
        picks = []
        for _ in range(len(distances) - 2 * self.attackers):
            best = left[int(krum_scores(distances[left][:, left], self.attackers).argmin())]
            picks.append(best)
            left.remove(best)
        return torch.tensor(picks, device=distances.device)


def nearest_mean(rows: Float[Tensor, "clients params"], kept: int) -> Float[Tensor, " params"]:
    """Of sorted columns, the mean of the ``kept`` values nearest to the median: they follow one another."""
    median = rows[(len(rows) - 1) // 2].lerp(rows[len(rows) // 2], 0.5)
    starts = range(len(rows) - kept + 1)
    # The nearest window is the one whose farther end is nearest.
    reach = torch.stack([torch.maximum(median - rows[s], rows[s + kept - 1] - median) for s in starts])
    sums = torch.cat([torch.zeros_like(rows[:1], dtype=torch.float64), rows.double().cumsum(0)])
    first = reach.argmin(0, keepdim=True)
    return ((sums.gather(0, first + kept) - sums.gather(0, first)) / kept)[0].to(rows.dtype)
