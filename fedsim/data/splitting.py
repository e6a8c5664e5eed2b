"""Held-out examples of data that comes without a test split."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.seeding import Stream, generator

Fraction = Annotated[float, Field(gt=0, lt=1)]


def held_out(records: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Record numbers to train on and to test on (at least one), drawn by the scenario's seed, in the data's order."""
    order = generator(seed, Stream.SPLIT).permutation(records)
    test = max(1, round(fraction * records))
    return np.sort(order[test:]), np.sort(order[:test])
