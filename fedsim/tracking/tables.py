"""Lines of a record as one table: CSV with the summary beside it, Parquet with types and the summary in it."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from fedsim.frames import flattened, numeric
from fedsim.tracking.base import Row, Tracked


@dataclass
class Table:
    """A line for each row; columns are the names of the record, and what was not measured is empty."""

    file: Path
    rows: list[Row] = field(default_factory=list)
    needs: ClassVar[tuple[str, ...]] = ()
    suffix: ClassVar[str] = ".csv"

    @classmethod
    def open(cls, run: Tracked) -> Self:
        """Begin an empty table."""
        run.folder.mkdir(parents=True, exist_ok=True)
        return cls(run.folder / f"rounds{cls.suffix}")

    def row(self, row: Row) -> None:
        """Keep a line."""
        self.rows.append({name: numeric(value) for name, value in row.items()})

    def close(self, summary: Row) -> None:
        """Write the table, and beside it summary.csv with a line for each value: its dotted key, and what it is."""
        self.write(summary)
        with open(self.file.with_name("summary.csv"), "w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows(
                [("key", "value"), *((key, _cell(value)) for key, value in flattened(summary, ""))]
            )

    def write(self, summary: Row) -> None:
        """Write the table alone."""
        with open(self.file, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, self.columns, restval="")
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in self.rows)

    @property
    def columns(self) -> list[str]:
        """The names in the record, in its order."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


@dataclass
class Parquet(Table):
    """The same with types; the summary is in the file's metadata under "fedsim.summary"."""

    needs: ClassVar[tuple[str, ...]] = ("pyarrow",)
    suffix: ClassVar[str] = ".parquet"

    def close(self, summary: Row) -> None:
        """Write the table."""
        self.write(summary)

    def write(self, summary: Row) -> None:
        """Write the table, with the summary in the file's metadata."""
        import pyarrow
        import pyarrow.parquet

        columns = {name: _column([row.get(name) for row in self.rows]) for name in self.columns}
        typed = {
            name: column.cast(pyarrow.float64()) if pyarrow.types.is_null(column.type) else column
            for name, column in columns.items()
        }
        table = pyarrow.table(typed).replace_schema_metadata({"fedsim.summary": json.dumps(summary)})
        pyarrow.parquet.write_table(table, self.file)


def _cell(value: Any) -> Any:
    """A value in a cell: lists and tables as JSON, infinity as a number."""
    return json.dumps(value) if isinstance(value, list | dict) else numeric(value)


def _column(values: list[Any]) -> Any:
    """A column with the type of its values; as text where they have several, such as a number and a name."""
    import pyarrow

    try:
        return pyarrow.array(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError):
        return pyarrow.array([each if each is None or isinstance(each, str) else json.dumps(each) for each in values])
