"""Every client holds a random share of equal size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.data.dataset import Examples
from fedsim.population.population import Population, check_enough
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Iid:
    """Independent and identically distributed clients, sizes equal up to one record."""

    kind: Literal["iid"] = "iid"

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Deal the shuffled records ``[n]`` out to the clients; raises ``BadInput`` if a client would get none."""
        check_enough(len(examples), clients, 1)
        order = rng.permutation(len(examples)).astype(np.int64)
        bounds = (np.arange(clients + 1) * len(examples)) // clients
        return Population(order, bounds.astype(np.int64))
