"""What a scenario declares about a table of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedsim.data.assembling import assemble, split_rows
from fedsim.data.columns import Categorical, ClassLabel, ColumnChoice, Finite, NumberLabel
from fedsim.data.dataset import Dataset
from fedsim.data.files import find_files
from fedsim.data.scaling import Constants, ScalingChoice, Unscaled
from fedsim.data.tabular import Rows, Schema, Table, encode
from fedsim.errors import BadInput
from fedsim.seeding import Stream, generator
from fedsim.settings import Positive


@dataclass(frozen=True, kw_only=True)
class Declared(ABC):
    """A table with declared columns; nothing about them is taken from the private data itself.

    ``task`` says what the label is: one of the ``classes``, or a number, which becomes (value - label_mean) /
    label_std. ``client`` names the column of the natural owners. Held out for testing is ``test_path``, else
    ``test_fraction`` of everyone's rows, or of each owner's. Empty fields and texts in ``missing`` are no value.
    """

    source: str
    path: str
    label: str
    features: tuple[ColumnChoice, ...]
    task: Literal["classes", "numbers"] = "classes"
    classes: tuple[str, ...] = ()
    label_mean: Finite = 0.0
    label_std: Positive = 1.0
    client: str | None = None
    missing: tuple[str, ...] = ()
    bad_rows: Literal["refuse", "drop"] = "refuse"
    scaling: ScalingChoice = Constants()
    test_path: str | None = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2

    @abstractmethod
    def read(self, file: Path) -> Table:
        """The columns of one file; raises ``BadInput`` when it cannot be read."""

    def load(self, seed: int) -> Dataset:
        """Features ``[n, d]``, split by the scenario's seed; raises ``BadInput`` that says what does not fit."""
        schema = self._schema()
        rows = self._rows(self.path, schema)
        if self.test_path is not None:
            train, test = rows, self._rows(self.test_path, schema)
        else:
            numbers = split_rows(rows, self.test_fraction, generator(seed, Stream.SPLIT))
            train, test = (rows.take(part) for part in numbers)
        unscaled = Unscaled(train, test, schema.features, lambda path: self._rows(path, schema))
        return assemble(schema, unscaled, self.scaling)

    def _rows(self, path: str, schema: Schema) -> Rows:
        file = Path(path)
        if file.name in ("", ".."):
            raise BadInput(f'data.path = "{path}": it must name a file, not a folder.')
        found = find_files(self.source, str(file.parent), [file.name], None)
        return encode(self.read(found[0]), schema)

    def _schema(self) -> Schema:
        names = [feature.name for feature in self.features]
        if not names:
            raise BadInput("data.features = []: declare at least one column to learn from.")
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BadInput(f'data.features: the column "{twice}" is declared twice.')
        if self.label in names:
            raise BadInput(f'data.label = "{self.label}": it is among data.features, which would give it away.')
        for feature in self.features:
            _check_values(feature)
        return Schema(self.features, (self._label(),), self.client, self.missing, self.bad_rows)

    def _label(self) -> ClassLabel | NumberLabel:
        scaled = (self.label_mean, self.label_std) != (0.0, 1.0)
        if self.task == "numbers":
            if self.classes:
                raise BadInput('data.classes: only used with data.task = "classes".')
            return NumberLabel(self.label, self.label_mean, self.label_std)
        if scaled:
            raise BadInput('data.label_mean and data.label_std: only used with data.task = "numbers".')
        if len(set(self.classes)) < max(2, len(self.classes)):
            raise BadInput(
                f"data.classes = {list(self.classes)}: name every value of the label, at least two and each once, "
                'for example ["no", "yes"].'
            )
        return ClassLabel(self.label, self.classes, {name: code for code, name in enumerate(self.classes)})


def _check_values(feature: ColumnChoice) -> None:
    values = feature.values if isinstance(feature, Categorical) else ()
    if not feature.parts() or len(set(values)) < len(values):
        raise BadInput(
            f'data.features: the values of "{feature.name}" are {list(values)}; name each once, and at least one (two '
            "with drop_first)."
        )
