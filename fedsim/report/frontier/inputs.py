"""What a sweep left on disk, as the report reads it."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedsim.documents import read_text
from fedsim.errors import Damaged
from fedsim.report.inputs import Json, json_lines, json_object

RUN = re.compile(r"runs/[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class SweepRecord:
    """The record of a sweep: what it was to do, and a line for each run that ended, in the order of trial and seed."""

    directory: Path
    sweep: Json
    rows: list[Json]

    def run(self, row: Json) -> Path | None:
        """The directory of a row's run, if its name is that of a run of this sweep and it exists."""
        name = str(row.get("run"))
        path = self.directory / name
        return path if RUN.fullmatch(name) and path.is_dir() else None

    def link(self, row: Json) -> str:
        """A run's own report, relative to the sweep's; empty where there is none."""
        run = self.run(row)
        return f"{row['run']}/report.html" if run is not None and (run / "report.html").is_file() else ""

    def document(self, row: Json, name: str) -> Json:
        """A JSON file of a row's run; empty where there is none."""
        run = self.run(row)
        path = None if run is None else run / name
        return json_object(path, read_text(path)) if path is not None and path.is_file() else {}

    @property
    def name(self) -> str:
        return str(self.sweep.get("name") or self.directory.name)

    @cached_property
    def objectives(self) -> list[str]:
        found: Any = self.sweep.get("objectives") or self.sweep.get("objective") or []
        return [found] if isinstance(found, str) else [str(name) for name in found]

    @cached_property
    def metric(self) -> str:
        """The metric that the settings are judged by: the sweep's objective, else the main metric of its runs."""
        measured = {name for row in self.rows for name in row.get("metrics") or {}}
        wanted = [name for name in self.objectives if name in measured]
        mains = [str(row["main_metric"]) for row in self.rows if row.get("main_metric")]
        return next(iter([*wanted, *mains]), "accuracy")


def read_sweep(directory: Path) -> SweepRecord:
    """The record in a sweep's directory: `sweep.json` and `trials.jsonl`, or `table.json` without timings.

    Raises FileNotFoundError where there is neither, and ``Damaged``, naming the file, where one is not valid.
    """
    lines, table, sweep = (directory / name for name in ("trials.jsonl", "table.json", "sweep.json"))
    if not lines.exists() and not table.exists():
        raise FileNotFoundError(f"{lines} is missing: {directory} holds no record of a sweep")
    rows = json_lines(lines) if lines.exists() else _table(table)
    found = {(_whole(row, "trial"), _whole(row, "seed")): row for row in rows}
    described = json_object(sweep, read_text(sweep)) if sweep.exists() else {}
    return SweepRecord(directory, described, [found[key] for key in sorted(found)])


def _table(path: Path) -> list[Json]:
    """The rows of `table.json`: a list, or a list under "trials" or "rows"."""
    content = json_object(path, f'{{"rows": {read_text(path)}}}')["rows"]
    rows = content if isinstance(content, list) else (content.get("trials") or content.get("rows"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Damaged(f"{path} does not hold a list of trials")
    return rows


def _whole(row: Json, key: str) -> int:
    value = row.get(key)
    if not isinstance(value, int):
        raise Damaged(f"a line of the sweep's record has no {key}: {str(row)[:80]}")
    return value
