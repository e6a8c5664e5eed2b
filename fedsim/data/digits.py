"""Scikit-learn's 1,797 real handwritten digits (Alpaydin and Kaynak 1998, UCI), 8x8 grey values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedsim.data.dataset import Dataset, Examples
from fedsim.seeding import Stream, generator
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Digits:
    """Real handwritten digits that ship with scikit-learn; a fraction of them is held out for testing."""

    source: Literal["digits"] = "digits"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def load(self, seed: int) -> Dataset:
        """Images ``[n, 1, 8, 8]`` in [0, 1] (the scale 16 is a public constant), split by the scenario's seed."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        features = (digits.data / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
        labels = digits.target.astype(np.int64)
        order = generator(seed, Stream.SPLIT).permutation(len(labels))
        held_out = max(1, round(self.test_fraction * len(labels)))
        train, test = order[held_out:], order[:held_out]
        return Dataset(
            Examples(features[train], labels[train]),
            Examples(features[test], labels[test]),
            tuple(str(digit) for digit in range(10)),
        )
