"""Tables in Parquet files, by pyarrow (an extra)."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fedsim.data.declared import Declared
from fedsim.data.tabular import Table
from fedsim.errors import BadInput
from fedsim.extras import missing
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Parquet(Declared):
    """Your own table in a Parquet file, with the columns declared in the scenario (needs ``fedsim[parquet]``)."""

    source: Literal["parquet"] = "parquet"

    def read(self, file: Path) -> Table:
        """The declared columns as texts, "" for null; raises ``BadInput`` when the file is no such table."""
        arrow, parquet = _pyarrow("pyarrow"), _pyarrow("pyarrow.parquet")
        wanted = {feature.name for feature in self.features} | {self.label} | ({self.client} if self.client else set())
        try:
            with parquet.ParquetFile(file) as opened:
                names = opened.schema_arrow.names
                found = opened.read(columns=[name for name in names if name in wanted])
                columns = {name: _texts(arrow, found.column(name)) for name in found.column_names}
        except (arrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise BadInput(f"{file} cannot be read as a Parquet table: {error}".rstrip(".") + ".") from error
        # Names that are not wanted stay known, so that a misspelt one can be set right.
        return Table(file.name, {name: columns.get(name, ()) for name in names}, range(1, found.num_rows + 1))


def _texts(arrow: Any, column: Any) -> list[str]:
    """A column as texts; numbers in the shortest form that reads back as the same number."""
    return ["" if text is None else text.strip() for text in column.cast(arrow.string()).to_pylist()]


def _pyarrow(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing('data.source = "parquet"', "pyarrow", "parquet") from error
