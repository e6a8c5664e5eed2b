"""The weighted sum of updates, streamed: a cohort's models are never held at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


class WeightedSum:
    """A running sum in float64, so that the size of blocks and the order of clients hardly show in the result.

    With ``total`` it goes on with another sum's, which then has what is added to it already.
    """

    def __init__(self, size: int, device: torch.device, total: Tensor | None = None) -> None:
        self.total: Tensor = torch.zeros(size, dtype=torch.float64, device=device) if total is None else total
        self.weight = 0.0
        self.clients = 0

    def add(self, updates: Float[Tensor, "clients params"], weights: Float[Tensor, " clients"]) -> None:
        """Add clients' updates times their weights."""
        self.add_sum(weights.double() @ updates.double(), float(weights.double().sum()), len(updates))

    def add_sum(self, total: Float[Tensor, " params"], weight: float, clients: int) -> None:
        """Add a block's sum."""
        if total is not self.total:
            self.total += total
        self.weight += weight
        self.clients += clients
