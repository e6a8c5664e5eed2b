"""The rounds as one table: CSV for everything, Parquet with types and the summary beside them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from fedsim.errors import Damaged
from fedsim.frames import numeric
from fedsim.tracking.base import Row, Tracked


@dataclass
class Table:
    """A line for each round; columns are the names of the record, and what was not measured is empty."""

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
        """Keep a round."""
        self.rows.append({name: numeric(value) for name, value in row.items()})

    def close(self, summary: Row) -> None:
        """Write the table."""
        with open(self.file, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, self.columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)

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
        """Write the table, with the summary in the file's metadata."""
        import pyarrow
        import pyarrow.parquet

        try:
            columns = {name: pyarrow.array([row.get(name) for row in self.rows]) for name in self.columns}
        except pyarrow.ArrowException as error:
            raise Damaged(f"The rounds cannot be written to {self.file}: values of several types ({error}).") from error
        typed = {
            name: column.cast(pyarrow.float64()) if pyarrow.types.is_null(column.type) else column
            for name, column in columns.items()
        }
        table = pyarrow.table(typed).replace_schema_metadata({"fedsim.summary": json.dumps(summary)})
        pyarrow.parquet.write_table(table, self.file)
