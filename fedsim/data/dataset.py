"""What every data source loads into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import BadInput

# What the labels are: classes, numbers, or for every token of the features the one that follows it.
Kind = Literal["classes", "numbers", "tokens"]
# A partition that spreads labels treats numbers as so many classes of equal size.
STRATA = 10


@dataclass(frozen=True)
class Examples:
    """Features ``[n, ...]`` (float32, or int64 tokens), labels, and who owns each example ``[n]`` if the data says so.

    Labels are classes ``[n]`` int64, numbers ``[n, outputs]`` float32, or following tokens ``[n, length]`` int64, with
    -1 where there is none.
    """

    features: NDArray[Any]
    labels: NDArray[Any]
    owners: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def strata(self) -> NDArray[np.int64]:
        """A class for each example ``[n]`` by which label skew is made: its own, or the tenth that its number is in."""
        if self.labels.ndim == 1:
            return np.asarray(self.labels, np.int64)
        if not np.issubdtype(self.labels.dtype, np.floating):
            raise BadInput("population.partition: texts have no classes to be skewed by; use iid or natural.")
        order = np.argsort(np.argsort(self.labels[:, 0], kind="stable"))
        return np.asarray(order * STRATA // len(order), np.int64)


@dataclass(frozen=True)
class Dataset:
    """Training examples (private, held by clients) and held-out test examples.

    ``names`` are those of the classes, of the numbers, or the tokens' characters. ``vocabulary`` is how many tokens
    there are where the features are tokens, else 0; ``owners`` names the natural owners; ``notes`` say what loading
    counted or left out. Raises ``BadInput`` when a split is empty, lengths differ, an array has another type, a value
    is NaN or infinite, or a label is not a class.
    """

    train: Examples
    test: Examples
    names: tuple[str, ...]
    kind: Kind = "classes"
    vocabulary: int = 0
    owners: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise BadInput("The data has no names of its classes, numbers or characters.")
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
        self._check_types(name, split)
        _check_values(name, "features", split.features, self.vocabulary)
        _check_values(name, "labels", split.labels, 0 if self.kind == "numbers" else len(self.names))
        owners = split.owners
        if owners is not None and (len(owners) != len(split) or owners.min() < 0 or owners.max() >= len(self.owners)):
            raise BadInput(f"The {name} data has owners that are not among the {len(self.owners)} named.")

    def _check_types(self, name: str, split: Examples) -> None:
        """The trainers read the arrays' memory as they are: any other type would be read as something else."""
        numbers = self.kind == "numbers"
        wanted = [
            ("features", split.features, np.int64 if self.vocabulary else np.float32),
            ("labels", split.labels, np.float32 if numbers else np.int64),
            *([("owners", split.owners, np.int64)] if split.owners is not None else []),
        ]
        for what, values, dtype in wanted:
            found = getattr(values, "dtype", type(values).__name__)
            if not isinstance(values, np.ndarray) or found != dtype:
                raise BadInput(f"The {name} data has {what} of type {found}; they must be {np.dtype(dtype)} in NumPy.")
        dimensions = 1 if self.kind == "classes" else 2
        if split.labels.ndim != dimensions:
            raise BadInput(
                f"The {name} data has labels {list(split.labels.shape)}; {self.kind} have {dimensions} dimension(s)."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example's features."""
        return self.train.features.shape[1:]


def _check_values(name: str, what: str, values: NDArray[Any], count: int) -> None:
    """Whole numbers below ``count``, or finite numbers where it is 0; a label of -1 stands for none in texts."""
    if count:
        if values.min() < (-1 if values.ndim > 1 and what == "labels" else 0) or values.max() >= count:
            raise BadInput(f"The {name} data has {what} outside 0 to {count - 1}.")
        return
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise BadInput(
            f"The {name} data has {int(bad.sum())} examples with NaN or infinite {what} "
            f"(the first is number {int(bad.argmax())}). Remove or repair them."
        )


class DataSource(Protocol):
    """What an entry of the table of sources offers."""

    @property
    def source(self) -> str:
        """The source's name in the table, or its import path."""

    def load(self, seed: int) -> Dataset:
        """The data set; raises ``BadInput`` that says what is missing or wrong."""
