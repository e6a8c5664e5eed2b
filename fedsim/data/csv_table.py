"""Tables in delimited text files, gzipped or not."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedsim.data.declared import Declared
from fedsim.data.files import read_whole
from fedsim.data.tabular import Table
from fedsim.errors import BadInput
from fedsim.settings import section

Character = Annotated[str, Field(min_length=1, max_length=1)]


@section
@dataclass(frozen=True, kw_only=True)
class Csv(Declared):
    """Your own table in a delimited text file, with the columns declared in the scenario.

    Without a ``header`` line, ``columns`` names the columns in order. Lines that start with ``comment`` are no rows.
    """

    source: Literal["csv"] = "csv"
    separator: Character = ","
    quote: Character = '"'
    comment: str = ""
    header: bool = True
    columns: tuple[str, ...] = ()

    def read(self, file: Path) -> Table:
        """Every row as texts; raises ``BadInput`` when the file is no such table."""
        marks = self.separator, self.quote
        if self.separator == self.quote or set(marks) & {"\n", "\r"}:
            raise BadInput(f"data.separator and data.quote = {list(marks)}: they must differ and end no line.")
        if self.header and self.columns:
            raise BadInput("data.columns: only used with data.header = false; the header line names the columns.")
        if not self.header and not self.columns:
            raise BadInput("data.columns is missing: without a header line it must name the columns in order.")
        return read_csv(file, Format(self.separator, self.quote, self.comment, self.columns))


@dataclass(frozen=True)
class Format:
    """How a file is delimited; the first line names the columns where ``columns`` does not."""

    separator: str = ","
    quote: str = '"'
    comment: str = ""
    columns: tuple[str, ...] = ()


def read_csv(file: Path, form: Format) -> Table:
    """Every row as texts without the blanks around them; raises ``BadInput`` when the file is torn or not UTF-8."""
    rows = _rows(file, _text(file), form)
    names = form.columns or next((tuple(fields) for _, fields in rows), ())
    if not names or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise BadInput(f"{file}: " + ("it is empty." if twice is None else f'two columns are called "{twice}".'))
    lines: list[int] = []
    torn: list[int] = []
    kept: list[list[str]] = []
    for line, fields in rows:
        if len(fields) == len(names):
            lines.append(line)
            kept.append(fields)
        else:
            torn.append(line)
    columns = zip(*kept, strict=True) if kept else ((),) * len(names)
    return Table(file.name, dict(zip(names, columns, strict=True)), lines, tuple(torn))


def _rows(file: Path, text: str, form: Format) -> Iterator[tuple[int, list[str]]]:
    """The number of each row's last line, and its fields; blank lines and comments are no rows."""
    try:
        # strict: a quote that is never closed would swallow the rows after it.
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=form.separator, quotechar=form.quote, strict=True)
        for fields in reader:
            stripped = list(map(str.strip, fields))
            if any(stripped) and not (form.comment and stripped[0].startswith(form.comment)):
                yield reader.line_num, stripped
    except (csv.Error, TypeError, ValueError) as error:
        raise BadInput(f"{file} cannot be read as a table: {error}.") from error


def _text(file: Path) -> str:
    try:
        return read_whole(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text (byte {error.start}).") from error
