"""The record of a finished run, or of a sweep, in another tool's format: ``fedsim export``."""

from __future__ import annotations

import tomllib
from pathlib import Path

from fedsim.comparing.labels import flat
from fedsim.errors import BadInput
from fedsim.extras import require
from fedsim.frames import swept_row
from fedsim.report.inputs import json_lines, read_document
from fedsim.tracking import EXPORTS, TABLES
from fedsim.tracking.base import Tracked

SWEPT = ("trials.jsonl", "table.json")


def export(run: str | Path, to: str, out: str | Path | None = None) -> Path:
    """Write a run's rounds and summary, or a sweep's table of runs, for another tool; returns the folder.

    The folder is ``RUN/export/<to>`` by default. Raises ``BadInput`` for an unknown format, for a sweep one that is no
    table, a run that has not finished, a missing package, or a full folder.
    """
    path = Path(run)
    if to not in EXPORTS:
        raise BadInput(f"--to {to}: must be one of {', '.join(EXPORTS)}.")
    swept = not (path / "summary.json").exists() and any((path / name).exists() for name in SWEPT)
    if swept and to not in TABLES:
        raise BadInput(f"--to {to}: {path} is a sweep; export it to {' or '.join(TABLES)}, or one of its runs.")
    if not swept and not (path / "summary.json").exists():
        raise BadInput(f"{path} has no summary.json, so there is nothing to export; is it a finished run?")
    if (path / "fold-1").is_dir():
        raise BadInput(f"{path} is a cross-validation, which has no rounds of its own; export {path / 'fold-1'} etc.")
    require(f"--to {to}", EXPORTS[to].needs, "tracking")
    folder = Path(out) if out is not None else path / "export" / to
    if folder.exists() and (not folder.is_dir() or (out is not None and any(folder.iterdir()))):
        raise BadInput(f"--out {folder}: it exists already; name another folder.")
    try:
        (_write_sweep if swept else _write)(path, to, folder)
    except OSError as error:
        raise BadInput(f"--out {folder}: it cannot be written: {error.strerror or error}.") from error
    return folder


def _write_sweep(path: Path, to: str, folder: Path) -> None:
    """A line for each run that ended, the failed ones too, in table.csv or table.parquet."""
    from fedsim.report.frontier.inputs import read_sweep

    try:
        record = read_sweep(path)
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}.") from error
    folder.mkdir(parents=True, exist_ok=True)
    table = TABLES[to](folder / f"table{TABLES[to].suffix}")
    for row in record.rows:
        table.row(swept_row(row))
    table.write(record.sweep)


def _write(path: Path, to: str, folder: Path) -> None:
    try:
        summary, environment = read_document(path / "summary.json"), read_document(path / "environment.json")
        settings = flat(tomllib.loads((path / "scenario.toml").read_text()))
        rows = json_lines(path / "rounds.jsonl")
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}.") from error
    began = (path / "scenario.toml").stat().st_mtime
    run = Tracked(path.resolve().name, str(environment.get("run_id", "unknown")), settings, folder, began)
    sink = EXPORTS[to].open(run)
    for row in rows:
        sink.row(row)
    sink.close(summary)
