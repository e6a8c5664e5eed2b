"""What an aggregator of whole updates offers."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor


class Aggregator(ABC):
    """Makes one update of the cohort's; its fields are the settings of ``[algorithm] aggregation`` in a scenario."""

    kind: str
    # Whether it must see every update by itself; a sum is enough otherwise, and is all that secure aggregation gives.
    needs_every_update: ClassVar[bool] = True
    # What it compares updates with: its own result of the round before, or the update of public root records.
    compares_with: ClassVar[Literal["previous", "root"] | None] = None

    @property
    def bound(self) -> float:
        """The norm that every client's update is clipped to before it is added up, where its privacy sets none."""
        return math.inf

    @property
    def least(self) -> int:
        """The fewest updates that it works with."""
        return 1

    @abstractmethod
    def aggregate(
        self,
        updates: Float[Tensor, "clients params"],
        weights: Float[Tensor, " clients"],
        reference: Float[Tensor, " params"] | None = None,
    ) -> Float[Tensor, " params"]:
        """One update from at least ``least`` finite ones and their weights, positive numbers.

        ``reference`` is what it ``compares_with``; without a round before, or where it compares with nothing, None.
        """
