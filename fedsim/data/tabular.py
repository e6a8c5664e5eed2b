"""Tables of texts, and the rows of numbers that their declared columns make."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.columns import ClassLabel, Column, Encoded, Fault, NumberLabel, mask
from fedsim.errors import BadInput

SHOWN_REASONS = 6  # of bad rows; of the others the columns are named


@dataclass(frozen=True)
class Table:
    """Columns of texts by name, the line of each row in its file, and the lines that had too few or many fields."""

    file: str
    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]
    torn: tuple[int, ...] = ()

    def column(self, name: str, key: str = "data.features") -> Sequence[str]:
        """The texts of one column, which ``key`` names; raises ``BadInput`` with the nearest name if there is none."""
        if name not in self.columns:
            near = difflib.get_close_matches(name, self.columns, n=1)
            hint = f'did you mean "{near[0]}"?' if near else "it has: " + ", ".join(list(self.columns)[:20])
            raise BadInput(f'{key}: {self.file} has no column "{name}" ({hint}).')
        return self.columns[name]


@dataclass(frozen=True)
class Schema:
    """Which columns of a table are features, label and owner, and what happens to rows that do not fit."""

    features: tuple[Column, ...]
    labels: tuple[ClassLabel | NumberLabel, ...]
    client: str | None = None
    missing: tuple[str, ...] = ()
    bad_rows: Literal["refuse", "drop"] = "refuse"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes or numbers."""
        return tuple(name for label in self.labels for name in label.names)

    def parts(self) -> tuple[str, ...]:
        """Names of the numbers that an example's features are."""
        return tuple(part for feature in self.features for part in feature.parts())


@dataclass(frozen=True)
class Rows:
    """The usable rows as numbers: features ``[n, d]`` float64, labels, and the owner's name of each if declared."""

    values: NDArray[np.float64]
    labels: NDArray[np.int64] | NDArray[np.float64]
    owners: NDArray[np.str_] | None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[np.int64]) -> Rows:
        """Some of the rows, with the notes on all."""
        owners = None if self.owners is None else self.owners[rows]
        return Rows(self.values[rows], self.labels[rows], owners, self.notes)


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of several tables, one after the other."""
    owners = [part.owners for part in parts if part.owners is not None]
    return Rows(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate(owners) if owners else None,
        tuple(note for part in parts for note in part.notes),
    )


def encode(table: Table, schema: Schema) -> Rows:
    """The table's usable rows; raises ``BadInput`` for columns that are not there and rows that do not fit."""
    missing = {"", *schema.missing}  # an empty field is never a value
    features = [feature.encode(table.column(feature.name), missing) for feature in schema.features]
    labels = [label.encode(table.column(label.column, "data.label"), missing) for label in schema.labels]
    faults = [fault for part in [*features, *labels] for fault in part.faults]
    if schema.client is not None:
        # A column that is a feature too has been judged as one: there a marker may be declared as a value.
        gaps = {""} if schema.client in [feature.name for feature in schema.features] else missing
        nobody = mask(text in gaps for text in table.column(schema.client, "data.client"))
        faults.append(Fault(schema.client, "no owner", nobody))
    bad, notes = _judge(table, schema, [fault for fault in faults if fault.rows.any()])
    owners = None if schema.client is None else np.array(table.column(schema.client), dtype=np.str_)
    counted = tuple(f"{table.file}: {note}" for part in features for note in part.notes)
    rows = Rows(np.concatenate([part.values for part in features], axis=1), _joined(labels), owners, notes + counted)
    return rows.take(np.flatnonzero(~bad))


def _joined(labels: list[Encoded]) -> NDArray[np.int64] | NDArray[np.float64]:
    """Classes ``[n]``, or numbers ``[n, outputs]``."""
    first: NDArray[np.int64] = labels[0].values
    return first if first.ndim == 1 else np.concatenate([label.values for label in labels], axis=1)


def _judge(table: Table, schema: Schema, faults: list[Fault]) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Which rows ``[n]`` are bad, and the note on them; raises ``BadInput`` where they are to be refused."""
    bad = np.zeros(len(table.lines), np.bool_)
    for fault in faults:
        bad |= fault.rows
    count, total = int(bad.sum()) + len(table.torn), len(table.lines) + len(table.torn)
    if count == 0:
        return bad, ()
    drop = schema.bad_rows == "drop"
    shown_faults, rest = faults[:SHOWN_REASONS], [fault.column for fault in faults[SHOWN_REASONS:]]
    reasons = [f"{each.rows.sum()} {each.what} in {each.column}{_first(table, each, drop)}" for each in shown_faults]
    if rest:
        reasons.append(f"more in {', '.join(dict.fromkeys(rest))}")
    if table.torn:
        where = "" if drop else f" (line {table.torn[0]})"
        reasons.append(f"{len(table.torn)} with another number of fields than columns{where}")
    shown = "; ".join(reasons)
    if drop:
        return bad, (f"{table.file}: {count} of {total} rows were left out: {shown}.",)
    raise BadInput(
        f"{table.file}: {count} of {total} rows do not fit the declared columns: {shown}. Repair them, declare what "
        'they hold (missing, fill, values, other), or set data.bad_rows = "drop" to leave them out.'
    )


def _first(table: Table, fault: Fault, drop: bool) -> str:
    """Where the first one is; a note stays with the run's record, so it counts and shows no value."""
    if drop:
        return ""
    row = int(fault.rows.argmax())
    return f' (line {table.lines[row]}: "{table.column(fault.column)[row][:20]}")'
