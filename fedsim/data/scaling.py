"""How numeric features are scaled without looking at everybody's private data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.data.columns import Column, Numeric
from fedsim.data.tabular import Rows
from fedsim.errors import BadInput
from fedsim.settings import choice, section

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Unscaled:
    """Training and test rows, the features they are made of, and how a public file of the same kind is read."""

    train: Rows
    test: Rows
    features: tuple[Column, ...]
    read: Callable[[str], Rows]

    def chosen(self) -> NDArray[np.bool_]:
        """Which numbers of an example are scaled ``[d]``: not the zeros and ones of categories."""
        return np.array([isinstance(f, Numeric) for f in self.features for _ in f.parts()], np.bool_)


class Scaling(Protocol):
    """What an entry of the table of scalings offers."""

    @property
    def kind(self) -> str:
        """Its name in the table."""

    def scale(self, rows: Unscaled) -> tuple[Values, Values, tuple[str, ...]]:
        """Scaled training and test features, and notes on where the statistics are from."""


@section
@dataclass(frozen=True)
class Constants:
    """Numeric columns by the public ``mean`` and ``std`` declared with them; those without stay as they are."""

    kind: Literal["constants"] = "constants"

    def scale(self, rows: Unscaled) -> tuple[Values, Values, tuple[str, ...]]:
        """(value - mean) / std with the declared constants."""
        moments = [_declared(feature) for feature in rows.features for _ in feature.parts()]
        mean, std = (np.array(column, np.float64) for column in zip(*moments, strict=True))
        numeric = [feature for feature in rows.features if isinstance(feature, Numeric)]
        plain = [feature.name for feature in numeric if feature.mean is None and feature.std is None]
        notes = []
        if len(plain) < len(numeric):
            notes.append("Numeric columns are scaled by public constants, which reveal nothing about the data.")
        if plain:
            notes.append(f"Not scaled, as no mean and std are declared: {', '.join(plain)}.")
        return (rows.train.values - mean) / std, (rows.test.values - mean) / std, tuple(notes)


@section
@dataclass(frozen=True)
class PublicFile:
    """By mean and standard deviation of the rows in a declared public file of the same format, ``path``."""

    path: str
    kind: Literal["public"] = "public"

    def scale(self, rows: Unscaled) -> tuple[Values, Values, tuple[str, ...]]:
        """(value - mean) / std of the public rows; raises ``BadInput`` when there are none."""
        public, chosen = rows.read(self.path), rows.chosen()
        if len(public) == 0:
            raise BadInput(f'data.scaling.path = "{self.path}": it has no usable rows.')
        mean, std, constant = _moments(public.values, chosen)
        notes = [*public.notes, f"Scaled by the statistics of {len(public)} rows declared public."]
        if constant:
            notes.append(f"{constant} columns are constant in the public rows and only centred.")
        return (rows.train.values - mean) / std, (rows.test.values - mean) / std, tuple(notes)


@section
@dataclass(frozen=True)
class PerClient:
    """By mean and standard deviation of each natural owner's own training records, which stay with the owner."""

    kind: Literal["client"] = "client"

    def scale(self, rows: Unscaled) -> tuple[Values, Values, tuple[str, ...]]:
        """Each owner's rows on their own; raises ``BadInput`` when an owner has no training records."""
        owners, held_out, chosen = rows.train.owners, rows.test.owners, rows.chosen()
        if owners is None or held_out is None:
            raise BadInput('data.scaling.kind = "client": the data has no owners; declare data.client, or use another.')
        strangers = np.setdiff1d(held_out, owners)
        if len(strangers):
            raise BadInput(
                f'data.scaling.kind = "client": {len(strangers)} owners have test records but no training records '
                f'(the first is "{strangers[0]}"); use "constants" or "public".'
            )
        train, test, constant = np.empty_like(rows.train.values), np.empty_like(rows.test.values), 0
        test_groups = _groups(held_out)
        for owner, own in _groups(owners).items():
            mean, std, without = _moments(rows.train.values[own], chosen)
            train[own] = (rows.train.values[own] - mean) / std
            of_test = test_groups.get(owner, np.zeros(0, np.int64))
            test[of_test] = (rows.test.values[of_test] - mean) / std
            constant += without
        return train, test, _own_notes(constant)


def _own_notes(constant: int) -> tuple[str, ...]:
    note = (
        "Each owner's records are scaled by that owner's own training records, which fits population.partition = "
        '"natural"; an example-level guarantee would not cover these statistics.'
    )
    counted = f"In {constant} cases a column is constant at an owner; there it is only centred."
    return (note, counted) if constant else (note,)


SCALINGS = {"constants": Constants, "public": PublicFile, "client": PerClient}

if TYPE_CHECKING:
    ScalingChoice = Scaling
else:
    ScalingChoice = choice("kind", SCALINGS)


def _declared(feature: Column) -> tuple[float, float]:
    """The constants of a column, 0 and 1 where none are declared."""
    if not isinstance(feature, Numeric):
        return 0.0, 1.0
    return feature.mean or 0.0, feature.std or 1.0


def _moments(values: Values, chosen: NDArray[np.bool_]) -> tuple[Values, Values, int]:
    """Mean and standard deviation ``[d]`` (0 and 1 where not chosen), and how many columns are constant (std 1)."""
    mean = np.where(chosen, values.mean(axis=0), 0.0)
    constant = values.min(axis=0) == values.max(axis=0)
    std = np.where(chosen & ~constant, values.std(axis=0), 1.0)
    # The spread of almost equal numbers may round to nothing.
    return mean, np.where(std > 0, std, 1.0), int((constant & chosen).sum())


def _groups(owners: NDArray[np.str_]) -> dict[str, NDArray[np.int64]]:
    """The rows of each owner."""
    names, codes = np.unique(owners, return_inverse=True)
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    return dict(zip(names.tolist(), rows, strict=True))
