"""Label skew: the records, sorted by label, are cut into shards, and every client gets some shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.data.dataset import Examples
from fedsim.population.population import Population, check_enough
from fedsim.settings import Count, section


@section
@dataclass(frozen=True)
class Shards:
    """Records sorted by label are cut into shards of equal size, ``shards_per_client`` for each client at random.

    Source: McMahan et al. 2017 (arXiv 1602.05629), with 2 shards a client. Shards differ by one record at most.
    """

    kind: Literal["shards"] = "shards"
    shards_per_client: Count = 2

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Sort, cut and deal; raises ``BadInput`` if a shard would be empty."""
        check_enough(len(examples), clients, self.shards_per_client, "shards_per_client")
        shuffled = rng.permutation(len(examples))
        by_label = shuffled[np.argsort(examples.strata[shuffled], kind="stable")]
        shards = clients * self.shards_per_client
        shard = (np.arange(len(by_label)) * shards) // len(by_label)
        owners = np.empty(len(by_label), np.int64)
        owners[by_label] = (rng.permutation(shards) // self.shards_per_client)[shard]
        return Population.from_owners(owners, clients)
