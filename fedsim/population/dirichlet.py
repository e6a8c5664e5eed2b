"""Label skew: each class is spread over the clients in Dirichlet proportions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedsim.data.dataset import Examples
from fedsim.population.population import Indices, Population, check_enough
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Dirichlet:
    """Proportions of each class over the clients are drawn from Dirichlet(alpha): the smaller, the more skewed.

    Source: Yurochkin et al. 2019 (arXiv 1905.12022), Hsu et al. 2019 (arXiv 1909.06335). Clients left with fewer than
    ``min_size`` records get the missing ones at random from clients that have more than that.
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    min_size: Annotated[int, Field(ge=1)] = 1

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Split records by label; raises ``BadInput`` when ``min_size`` cannot be met."""
        labels = examples.strata
        check_enough(len(labels), clients, self.min_size)
        owners = np.empty(len(labels), np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            shares = rng.dirichlet(np.full(clients, self.alpha))
            bounds = np.rint(np.cumsum(shares) * len(members)).astype(np.int64)
            owners[members] = np.searchsorted(bounds, np.arange(len(members)), side="right").clip(max=clients - 1)
        _fill_up(owners, clients, self.min_size, rng)
        return Population.from_owners(owners, clients)


def _fill_up(owners: Indices, clients: int, min_size: int, rng: np.random.Generator) -> None:
    """Move random surplus records (those beyond ``min_size`` at their owner) to clients that lack some, in place."""
    sizes = np.bincount(owners, minlength=clients)
    needy = np.repeat(np.arange(clients), np.maximum(min_size - sizes, 0))
    if len(needy) == 0:
        return
    order = rng.permutation(len(owners))
    by_owner = order[np.argsort(owners[order], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.arange(len(owners)) - starts[owners[by_owner]]
    surplus = by_owner[rank >= min_size]
    owners[rng.choice(surplus, len(needy), replace=False)] = needy
