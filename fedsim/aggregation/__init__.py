"""Aggregation: what makes one update of the clients', and the server's optimizer that steps along it."""

from __future__ import annotations

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.table import AGGREGATORS
from fedsim.aggregation.weighted_sum import WeightedSum

__all__ = ["AGGREGATORS", "Aggregator", "WeightedSum"]
