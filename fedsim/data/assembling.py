"""From rows of numbers to a data set: the held-out split, the scaling and the names of the owners."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedsim.data.columns import NumberLabel
from fedsim.data.dataset import Dataset, Examples
from fedsim.data.scaling import Scaling, Unscaled
from fedsim.data.tabular import Rows, Schema
from fedsim.errors import BadInput

Split = tuple[NDArray[np.int64], NDArray[np.int64]]


def assemble(schema: Schema, rows: Unscaled, scaling: Scaling) -> Dataset:
    """The data set made of training and test rows; raises ``BadInput`` when either is empty or a number overflows."""
    for name, part in (("training", rows.train), ("test", rows.test)):
        if len(part) == 0:
            raise BadInput(f"The table has no usable rows for the {name} data.")
    with np.errstate(all="ignore"):  # what overflows is infinite, and the data set refuses that
        train, test, notes = scaling.scale(rows)
        features = train.astype(np.float32), test.astype(np.float32)
        labels = tuple(_labels(part) for part in (rows.train, rows.test))
    names = _owner_names(rows.train, rows.test)
    owners = [_owner_numbers(part, names) for part in (rows.train, rows.test)]
    counted = rows.train.notes if rows.train.notes == rows.test.notes else (*rows.train.notes, *rows.test.notes)
    return Dataset(
        Examples(features[0], labels[0], owners[0]),
        Examples(features[1], labels[1], owners[1]),
        schema.names,
        "classes" if labels[0].ndim == 1 else "numbers",
        owners=names,
        notes=(*counted, *_constant(schema, rows.train), *_empty(schema, labels), *notes, *_units(schema)),
    )


def split_rows(rows: Rows, fraction: float, rng: np.random.Generator) -> Split:
    """Numbers of training and test rows: a fraction of everyone's, or of each owner's, who keeps one to train on."""
    if rows.owners is None:
        order = rng.permutation(len(rows))
        held_out = max(1, round(fraction * len(rows)))
        return np.sort(order[held_out:]), np.sort(order[:held_out])
    _, codes = np.unique(rows.owners, return_inverse=True)
    sizes = np.bincount(codes)
    shuffled = rng.permutation(len(rows))
    order = shuffled[np.argsort(codes[shuffled], kind="stable")]
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = np.minimum(np.rint(fraction * sizes), sizes - 1)
    test = rank < np.repeat(wanted, sizes)
    return np.sort(order[~test]), np.sort(order[test])


def _labels(rows: Rows) -> NDArray[np.int64] | NDArray[np.float32]:
    return rows.labels.astype(np.int64) if rows.labels.ndim == 1 else rows.labels.astype(np.float32)


def _owner_names(train: Rows, test: Rows) -> tuple[str, ...]:
    """Every owner, whole numbers in their own order before other names."""
    if train.owners is None or test.owners is None:
        return ()
    found = set(train.owners.tolist()) | set(test.owners.tolist())
    return tuple(sorted(found, key=lambda name: (not _whole(name), int(name) if _whole(name) else 0, name)))


def _whole(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 20


def _owner_numbers(rows: Rows, names: tuple[str, ...]) -> NDArray[np.int64] | None:
    if rows.owners is None:
        return None
    place = {name: number for number, name in enumerate(names)}
    return np.fromiter((place[name] for name in rows.owners.tolist()), np.int64, len(rows))


def _units(schema: Schema) -> list[str]:
    """A note on each number whose errors are not in its own unit."""
    scaled = [label for label in schema.labels if isinstance(label, NumberLabel) and (label.mean, label.std) != (0, 1)]
    return [
        f"{each.column} counts as (value - {each.mean:g}) / {each.std:g}; its errors are in units of {each.std:g}."
        for each in scaled
    ]


def _empty(schema: Schema, labels: tuple[NDArray[np.int64] | NDArray[np.float32], ...]) -> list[str]:
    """A note on declared classes that no record has, which may be misspelt."""
    if labels[0].ndim > 1:
        return []
    found = np.bincount(np.concatenate(labels).astype(np.int64), minlength=len(schema.names))
    names = [name for name, count in zip(schema.names, found.tolist(), strict=True) if not count]
    return [f"No record has the class{'es' if len(names) > 1 else ''} {_first_of(names)}."] if names else []


def _first_of(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _constant(schema: Schema, train: Rows) -> tuple[str, ...]:
    """A note on features that are the same in every training record, of which nothing can be learnt."""
    same = train.values.min(axis=0) == train.values.max(axis=0)
    names = [part for part, constant in zip(schema.parts(), same, strict=True) if constant]
    return (f"Constant in all training records: {_first_of(names)}.",) if names else ()
