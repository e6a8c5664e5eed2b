"""Quantity skew: clients hold random records, but some hold many more than others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Examples
from fedsim.population.population import Indices, Population, check_enough
from fedsim.settings import Count, Positive, section


@section
@dataclass(frozen=True)
class QuantitySkew:
    """Sizes follow a log-normal distribution or a power law; the labels are the same everywhere in distribution.

    Every client gets ``min_size`` records, and the rest are shared out in proportion to exp(``sigma`` z), z a standard
    normal (``law = "log_normal"``), or to rank to the power of ``-exponent``, ranks dealt at random (``"power_law"``).
    """

    kind: Literal["quantity_skew"] = "quantity_skew"
    law: Literal["log_normal", "power_law"] = "log_normal"
    sigma: Positive = 1.0
    exponent: Positive = 1.0
    min_size: Count = 1

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Draw the sizes and deal the shuffled records; raises ``BadInput`` when ``min_size`` cannot be met."""
        check_enough(len(examples), clients, self.min_size)
        sizes = self.min_size + _shared_out(len(examples) - clients * self.min_size, self._shares(clients, rng))
        order = rng.permutation(len(examples)).astype(np.int64)
        return Population(order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    def _shares(self, clients: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Each client's share of the records ``[clients]``, summing to 1."""
        log_normal = self.law == "log_normal"
        logs = rng.standard_normal(clients) if log_normal else -np.log1p(rng.permutation(clients))
        with np.errstate(over="ignore"):  # what lies infinitely far below the largest has no share
            weights = np.exp((self.sigma if log_normal else self.exponent) * (logs - logs.max()))
        return np.asarray(weights / weights.sum(), np.float64)


def _shared_out(records: int, shares: NDArray[np.float64]) -> Indices:
    """Whole numbers that sum to ``records``, each within one of its share; the largest remainders are rounded up."""
    exact = records * shares
    whole = np.floor(exact).astype(np.int64)
    missing = records - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
    return whole
