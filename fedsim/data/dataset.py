"""What every data source loads into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import BadInput


@dataclass(frozen=True)
class Examples:
    """Features ``[n, ...]`` float32 and labels ``[n]`` int64."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """Training examples (private, held by clients) and held-out test examples, with the names of the classes.

    Raises ``BadInput`` when a split is empty, lengths differ, a feature is NaN or infinite, or a label is not a class.
    """

    train: Examples
    test: Examples
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, split in (("training", self.train), ("test", self.test)):
            self._check(name, split)
        if self.train.features.shape[1:] != self.test.features.shape[1:]:
            raise BadInput("The training and the test data have different shapes per example.")

    def _check(self, name: str, split: Examples) -> None:
        if len(split) == 0 or len(split.features) != len(split.labels):
            raise BadInput(
                f"The {name} data has {len(split.features)} examples and {len(split.labels)} labels; "
                "both must be equal and not zero."
            )
        bad = ~np.isfinite(split.features.reshape(len(split), -1)).all(axis=1)
        if bad.any():
            raise BadInput(
                f"The {name} data has {int(bad.sum())} examples with NaN or infinite features "
                f"(the first is number {int(bad.argmax())}). Remove or repair them."
            )
        if split.labels.min() < 0 or split.labels.max() >= len(self.classes):
            raise BadInput(f"The {name} data has labels outside 0 to {len(self.classes) - 1}.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example's features."""
        return self.train.features.shape[1:]
