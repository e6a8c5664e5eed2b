"""Krum and Multi-Krum (Blanchard et al. 2017, arXiv 1703.02757)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.settings import Count, section

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
        self, updates: Float[Tensor, "clients params"], weights: Float[Tensor, " clients"]
    ) -> Float[Tensor, " params"]:
        """The update of the least score."""
        return updates[krum_scores(squared_distances(updates), self.attackers).argmin()].clone()


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
        self, updates: Float[Tensor, "clients params"], weights: Float[Tensor, " clients"]
    ) -> Float[Tensor, " params"]:
        """The weighted mean of the updates of the least scores."""
        scores = krum_scores(squared_distances(updates), self.attackers)
        chosen = scores.argsort(stable=True)[: self.kept or len(updates) - self.attackers]
        shares = weights[chosen].double() / weights[chosen].double().sum()
        return (shares @ updates[chosen].double()).to(updates.dtype)


def squared_distances(updates: Float[Tensor, "clients params"]) -> Float[Tensor, "clients clients"]:
    """Squared distances between updates, by one matrix product.

    Of the updates less their mean: what they have in common would cancel, and take the digits of a difference along.
    """
    centred = updates - updates.mean(0)
    products = (centred @ centred.t()).double()
    squares = products.diagonal()
    return (squares[:, None] + squares - 2 * products).clamp_(min=0).fill_diagonal_(0)


def krum_scores(distances: Float[Tensor, "clients clients"], attackers: int) -> Float[Tensor, " clients"]:
    """For each update the sum of its squared distances to the ``clients - attackers - 2`` nearest others."""
    nearest = max(1, len(distances) - attackers - 2)
    return distances.sort(dim=1).values[:, 1 : nearest + 1].sum(1)
