"""The columns declared for a table, and how their texts become numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.settings import Positive, choice, section

Finite = Annotated[float, Field(allow_inf_nan=False)]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """Rows ``[n]`` that cannot be used because of one column, and why."""

    column: str
    what: str
    rows: Mask


@dataclass(frozen=True)
class Encoded:
    """A column as numbers ``[n, width]`` (or classes ``[n]``), zero where there is a fault; notes count the rest."""

    values: NDArray[Any]
    faults: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


class Column(Protocol):
    """A declared feature."""

    @property
    def name(self) -> str:
        """The column's name in the table."""

    def encode(self, texts: Sequence[str], missing: Collection[str]) -> Encoded:
        """The texts of all rows as numbers; those in ``missing`` stand for no value."""

    def parts(self) -> tuple[str, ...]:
        """Names of the numbers that the column becomes."""


@section
@dataclass(frozen=True, kw_only=True)
class Numeric:
    """A number; ``mean`` and ``std`` are public constants, ``fill`` stands in where there is no value."""

    name: str
    kind: Literal["numeric"] = "numeric"
    mean: Finite | None = None
    std: Positive | None = None
    fill: Finite | None = None

    def encode(self, texts: Sequence[str], missing: Collection[str]) -> Encoded:
        """Numbers ``[n, 1]``; no value without ``fill``, and what is no finite number, is a fault."""
        found = numbers(texts)
        gaps = _within(missing, texts, ~np.isfinite(found) | np.isin(found, numbers(list(missing))))
        wrong = ~np.isfinite(found) & ~gaps
        found[gaps | wrong] = 0.0 if self.fill is None else self.fill
        faults = [Fault(self.name, "not a finite number", wrong)]
        if self.fill is None:
            return Encoded(found[:, None], (Fault(self.name, "no value", gaps), *faults))
        notes = (f'Column "{self.name}": {gaps.sum()} missing values became {self.fill:g}.',) if gaps.any() else ()
        return Encoded(found[:, None], tuple(faults), notes)

    def parts(self) -> tuple[str, ...]:
        """The name alone."""
        return (self.name,)


@section
@dataclass(frozen=True, kw_only=True)
class Categorical:
    """One of the ``values``, one-hot; with ``other``, anything else counts as one further value.

    With ``drop_first`` the first value gets no number of its own: it is all zeros.
    """

    name: str
    values: tuple[str, ...]
    kind: Literal["categorical"] = "categorical"
    other: bool = False
    drop_first: bool = False

    def encode(self, texts: Sequence[str], missing: Collection[str]) -> Encoded:
        """Ones and zeros ``[n, width]``; without ``other``, no value and a value not declared are faults."""
        codes = {value: code for code, value in enumerate(self.values)}
        found = np.fromiter((codes.get(text, -1) for text in texts), np.int64, len(texts))
        strange = found < 0
        gaps = _within(missing, texts, strange) | np.isin(found, [codes[text] for text in missing if text in codes])
        onehot = np.zeros((len(texts), len(self.values) + self.other))
        known = np.flatnonzero(~strange)
        onehot[known, found[known]] = 1.0
        onehot[strange, -1] = float(self.other)
        onehot = onehot[:, int(self.drop_first) :]
        if self.other:
            return Encoded(onehot, (), self._notes(strange, "values that are missing or not declared became other"))
        faults = Fault(self.name, "no value", strange & gaps), Fault(self.name, "a value not declared", strange & ~gaps)
        return Encoded(onehot, faults, self._notes(gaps & ~strange, "missing values count as a value of their own"))

    def _notes(self, rows: Mask, what: str) -> tuple[str, ...]:
        return (f'Column "{self.name}": {rows.sum()} {what}.',) if rows.any() else ()

    def parts(self) -> tuple[str, ...]:
        """Each value as ``name=value``."""
        every = [*self.values, "other"] if self.other else self.values
        return tuple(f"{self.name}={value}" for value in every)[int(self.drop_first) :]


COLUMNS = {"numeric": Numeric, "categorical": Categorical}

if TYPE_CHECKING:
    ColumnChoice = Numeric | Categorical
else:
    ColumnChoice = choice("kind", COLUMNS)


@dataclass(frozen=True)
class ClassLabel:
    """A label that is one of the classes ``names``; ``codes`` says which class each text stands for."""

    column: str
    names: tuple[str, ...]
    codes: dict[str, int]

    def encode(self, texts: Sequence[str], missing: Collection[str]) -> Encoded:
        """Classes ``[n]``; a text that is not declared, such as one in ``missing``, is a fault."""
        found = np.fromiter((self.codes.get(text, -1) for text in texts), np.int64, len(texts))
        return Encoded(np.maximum(found, 0), (Fault(self.column, "a label not declared", found < 0),))


@dataclass(frozen=True)
class NumberLabel:
    """A label that is a number, (value - mean) / std with public constants."""

    column: str
    mean: float = 0.0
    std: float = 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def encode(self, texts: Sequence[str], missing: Collection[str]) -> Encoded:
        """Numbers ``[n, 1]``; no value, and what is no finite number, is a fault."""
        found = Numeric(name=self.column).encode(texts, missing)
        with np.errstate(over="ignore"):  # what overflows is infinite, and the data set refuses that
            return Encoded((found.values - self.mean) / self.std, found.faults)


def _within(missing: Collection[str], texts: Sequence[str], candidates: Mask) -> Mask:
    """Which of the ``candidates`` are texts that stand for no value ``[n]``; looking at few saves time."""
    found = np.zeros(len(texts), np.bool_)
    rows = np.flatnonzero(candidates)
    found[rows] = [texts[row] in missing for row in rows.tolist()]
    return found


def mask(truths: Any) -> Mask:
    """An array of truths ``[n]``."""
    return np.array(list(truths), dtype=np.bool_)


def numbers(texts: Sequence[str]) -> NDArray[np.float64]:
    """Every text as a number ``[n]``, NaN where it is none."""
    try:
        return np.array(texts, dtype=np.float64)
    except ValueError:  # some text is no number: find out which
        return np.fromiter((_number(text) for text in texts), np.float64, len(texts))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
