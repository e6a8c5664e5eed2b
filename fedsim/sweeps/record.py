"""A sweep's directory: what is written when, so that a killed sweep goes on and nothing is run twice."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fedsim.durable import PART, append_whole, write_whole, writing
from fedsim.errors import BadInput
from fedsim.jsonable import jsonable
from fedsim.report.inputs import json_lines
from fedsim.sweeps.settings import BASE_FILE, SWEEP_FILE, Sweep

Json = dict[str, Any]
LOCK_SECONDS = 20.0
TIMINGS = ("seconds",)


class SweepDirectory:
    """The files of one sweep; while it is open nobody else may work on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = _locked(path)

    @classmethod
    def create(cls, path: Path, sweep: Sweep) -> SweepDirectory:
        """Make the directory with the resolved sweep and its base; raises ``BadInput`` if it exists."""
        import tomli_w

        try:
            (path / "runs").mkdir(parents=True, exist_ok=unbegun(path))
        except FileExistsError as error:
            raise BadInput(f"The sweep's directory {path} exists already; name another, or use --resume.") from error
        except OSError as error:
            raise BadInput(f"The sweep's directory {path} cannot be made: {error.strerror}.") from error
        directory = cls(path)
        directory.write(BASE_FILE, tomli_w.dumps(sweep.base))
        directory.write(SWEEP_FILE, sweep.to_toml())
        return directory

    @classmethod
    def open(cls, path: Path) -> SweepDirectory:
        """A sweep that was stopped; raises ``BadInput`` if somebody works on it."""
        directory = cls(path)
        for name in ("trials.jsonl", "rungs.jsonl"):
            _cut(path / name)
        return directory

    def close(self) -> None:
        """Let others work on it."""
        os.close(self.lock)

    def run(self, name: str) -> Path:
        """The directory of a run."""
        return self.path / "runs" / name

    def append(self, name: str, row: Json) -> None:
        """Add a line to a file, durably."""
        file, line = self.path / name, (json.dumps(jsonable(row)) + "\n").encode()
        with self._writing():
            append_whole(file, line, file.stat().st_size if file.exists() else 0)

    def rows(self, name: str) -> list[Json]:
        """The lines of a file; raises ``BadInput`` where one is damaged."""
        try:
            return json_lines(self.path / name)
        except ValueError as error:
            raise BadInput(f"{error}. Without that line its run is found again, or made again.") from error

    def forget_failed(self) -> None:
        """Take the failed runs out of the record, so that they go on where they stopped; what they spent stays spent.

        Their directories stay as they are, with ledger and checkpoint.
        """
        kept = [row for row in self.rows("trials.jsonl") if row["status"] != "failed"]
        self.write("trials.jsonl", "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, name: str, text: str) -> None:
        """Write a whole file, durably, or nothing."""
        with self._writing():
            write_whole(self.path / name, text.encode())

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(f"The sweep's directory {self.path}", "Every finished run is kept; mend this and resume.")

    def write_table(self, rows: Iterable[Json]) -> None:
        """Write table.json: the finished runs in the order of trial and seed, without what no two sweeps share."""
        kept = sorted(rows, key=lambda row: (row["trial"], row["seed"]))
        table = [{key: value for key, value in row.items() if key not in TIMINGS} for row in kept]
        self.write("table.json", json.dumps(jsonable(table), indent=1) + "\n")


def unbegun(path: Path) -> bool:
    """Whether a sweep was stopped here before what it was to do was written."""
    first = {"runs", ".lock", BASE_FILE}
    found = {file.name for file in path.iterdir() if file.suffix != PART} if path.is_dir() else set()
    return "runs" in found and found <= first


def _locked(path: Path) -> int:
    """A lock that is held until this process and every worker that it hands it to are gone."""
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                os.close(lock)
                raise BadInput(f"Another process works on the sweep in {path}; wait for it or stop it.") from error
            time.sleep(0.1)  # the workers of a killed sweep need a moment to end


def _cut(file: Path) -> None:
    """Cut off a last line that was not written whole."""
    if file.exists():
        data = file.read_bytes()
        os.truncate(file, data.rfind(b"\n") + 1)
