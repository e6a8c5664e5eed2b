"""What a sweep knows of its runs that their own records do not say: which setting, how it ended, what failed."""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fedsim.comparing.labels import flat
from fedsim.report import plain
from fedsim.report.inputs import Json, json_lines

WORKERS = "engine.workers"


@dataclass(frozen=True)
class SweepOfRuns:
    """The sweep in whose directory runs lie; ``rows`` are the lines of its trials.jsonl by the name of their run."""

    path: Path
    rows: dict[str, Json] = field(default_factory=dict)
    shares_threads: bool = False
    """Whether the number of threads of a run is the sweep's choice and not the scenario's."""

    @classmethod
    def read(cls, path: Path) -> SweepOfRuns:
        """The record in a directory, empty where it is no sweep's; raises ValueError where a file is damaged."""
        rows = {Path(str(line.get("run"))).name: line for line in json_lines(path / "trials.jsonl")}
        base = path / "base.toml"
        if not rows or not base.exists():
            return cls(path, rows)
        chosen = any(WORKERS in (row.get("values") or {}) for row in rows.values())
        return cls(path, rows, not chosen and WORKERS not in flat(tomllib.loads(base.read_text())))

    def finished(self) -> list[Path]:
        """The directories of the runs that have a summary and did not fail, in the order of their names."""
        found = sorted(file.parent for file in (self.path / "runs").glob("*/summary.json"))
        return [run for run in found if self._status(run.name) != "failed"]

    def left_out(self) -> str:
        """A sentence on the runs that are not compared; empty where all are."""
        failed = [row for row in self.rows.values() if row.get("status") == "failed"]
        here = {run.name for run in (self.path / "runs").iterdir() if run.is_dir()}
        going = here - {run.name for run in self.finished()} - set(self.rows)
        parts = [f"{plain.plural(len(failed), 'run')} failed"] if failed else []
        parts += [f"{plain.plural(len(going), 'run')} did not end"] if going else []
        gone = self._settings_without_runs()
        alone = f", and with them {plain.plural(gone, 'whole setting')}" if gone else ""
        return f"Left out of {self.path.name}: {plain.listing(parts)}{alone}." if parts else ""

    def _settings_without_runs(self) -> int:
        failed = Counter(row.get("trial") for row in self.rows.values() if row.get("status") == "failed")
        tried = Counter(row.get("trial") for row in self.rows.values())
        return sum(tried[trial] == number for trial, number in failed.items())

    def _status(self, name: str) -> str | None:
        return self.rows.get(name, {}).get("status")
