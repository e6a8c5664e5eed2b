"""Krum and Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.lengths import CHUNK_VALUES, lengths
from fedsim.settings import Count, section

TIE = 1e-6
# So many times the middling length is far enough.
FAR = 1e4
Attackers = Annotated[int, Field(ge=0)]


@section
@dataclass(frozen=True)
class Krum(Aggregator):
    """The update that is nearest to its neighbours, where at most ``attackers`` are hostile."""

    kind: Literal["krum"] = "krum"
    attackers: Attackers = 1

    @property
    def least(self) -> int:
        """What its theorem needs."""
        return 2 * self.attackers + 3

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """The update of the least score."""
        return updates[least(krum_scores(squared_distances(updates), self.attackers))].clone()


@section
@dataclass(frozen=True)
class MultiKrum(Aggregator):
    """The weighted mean of the ``kept`` updates that Krum likes best (all but ``attackers``, if left out)."""

    kind: Literal["multi_krum"] = "multi_krum"
    attackers: Attackers = 1
    kept: Count | None = None

    @property
    def least(self) -> int:
        """What Krum needs, and as many as are kept."""
        return max(2 * self.attackers + 3, self.kept or 1)

    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """The weighted mean of the updates of the least scores."""
        scores = krum_scores(squared_distances(updates), self.attackers)
        chosen = scores.argsort(stable=True)[: self.kept or len(updates) - self.attackers]
        shares = torch.zeros_like(weights)
        shares[chosen] = weights[chosen] / weights[chosen].sum()
        chosen_mean: Tensor = shares.to(updates.dtype) @ updates
        return chosen_mean


def squared_distances(updates: Float[Tensor, "clients params"]) -> Float[Tensor, "clients clients"]:
    """Squared distances between updates, by matrix products.

    Of the updates less the one of middling length: what they have in common would cancel, and take the digits of a
    difference along; a hostile one cannot choose itself by its length. Updates are shortened by ``shortening``.
    """
    norms = lengths(updates)
    middle, factors = norms.argsort()[len(updates) // 2], shortening(norms).to(updates.dtype)
    even = bool((factors == 1).all())
    products = torch.zeros(len(updates), len(updates), dtype=torch.float64, device=updates.device)
    for part in updates.split(CHUNK_VALUES, dim=1):
        fitted = part if even else part * factors[:, None]
        moved = fitted - fitted[middle]
        products += moved @ moved.t()
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp_(min=0).fill_diagonal_(0)


def shortening(norms: Float[Tensor, " clients"]) -> Float[Tensor, " clients"]:
    """Factors that make no update longer than ``FAR`` times the middling one: a longer one only costs digits."""
    longest = FAR * norms.median()
    return torch.where((norms > longest) & (longest > 0), longest / norms, 1.0)


def krum_scores(distances: Float[Tensor, "clients clients"], attackers: int) -> Float[Tensor, " clients"]:
    """For each update the sum of its squared distances to the ``clients - attackers - 2`` nearest others."""
    nearest = max(1, len(distances) - attackers - 2)
    return distances.sort(dim=1).values[:, 1 : nearest + 1].sum(1)


def least(scores: Float[Tensor, " clients"]) -> int:
    """The first update of the least score; two that are each other's nearest tie but for rounding."""
    return int((scores <= scores.min() * (1 + TIE)).nonzero()[0])
