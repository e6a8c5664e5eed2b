"""A finished run's record in another tool's format: ``fedsim export``."""

from __future__ import annotations

import tomllib
from pathlib import Path

from fedsim.comparing.runs import flat
from fedsim.errors import BadInput
from fedsim.extras import require
from fedsim.report.inputs import json_lines, read_document
from fedsim.tracking import EXPORTS
from fedsim.tracking.base import Tracked


def export(run: str | Path, to: str, out: str | Path | None = None) -> Path:
    """Write a run's rounds and summary for another tool; returns the folder (default ``RUN/export/<to>``).

    Raises ``BadInput`` for an unknown format, a run that has not finished, a missing package, or a full folder.
    """
    path = Path(run)
    if to not in EXPORTS:
        raise BadInput(f"--to {to}: must be one of {', '.join(EXPORTS)}.")
    if not (path / "summary.json").exists():
        raise BadInput(f"{path} has no summary.json, so there is nothing to export; is it a finished run?")
    if (path / "fold-1").is_dir():
        raise BadInput(f"{path} is a cross-validation, which has no rounds of its own; export {path / 'fold-1'} etc.")
    require(f"--to {to}", EXPORTS[to].needs, "tracking")
    folder = Path(out) if out is not None else path / "export" / to
    if folder.exists() and (not folder.is_dir() or (out is not None and any(folder.iterdir()))):
        raise BadInput(f"--out {folder}: it exists already; name another folder.")
    try:
        _write(path, to, folder)
    except OSError as error:
        raise BadInput(f"--out {folder}: it cannot be written: {error.strerror or error}.") from error
    return folder


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
