"""Scikit-learn's 1,797 real handwritten digits (Alpaydin and Kaynak 1998, UCI), 8x8 grey values."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
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
        grey, labels = read_digits()
        features = (grey / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
        order = generator(seed, Stream.SPLIT).permutation(len(labels))
        held_out = max(1, round(self.test_fraction * len(labels)))
        train, test = order[held_out:], order[:held_out]
        return Dataset(
            Examples(features[train], labels[train]),
            Examples(features[test], labels[test]),
            tuple(str(digit) for digit in range(10)),
        )


def read_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Grey values from 0 to 16 ``[1797, 64]`` and labels; from scikit-learn's file, as importing it takes a second."""
    found = find_spec("sklearn")
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz" if found and found.origin else None
    if file is not None and file.is_file():
        table = np.loadtxt(file, delimiter=",")
        return table[:, :-1], table[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data, digits.target.astype(np.int64)
