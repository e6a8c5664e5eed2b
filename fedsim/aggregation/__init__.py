"""Aggregation: a weighted sum of the clients' updates, and the server's optimizer on it."""

from __future__ import annotations

from fedsim.aggregation.server_step import ServerStep
from fedsim.aggregation.weighted_sum import WeightedSum

__all__ = ["ServerStep", "WeightedSum"]
