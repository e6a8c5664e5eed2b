"""A run's directory: what is written when, so that nothing is half-written and a stopped run can go on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from fedsim.checkpoint_file import OTHER_VERSION, Torn, pack_checkpoint, read_checkpoint, to_cpu
from fedsim.documents import read_json, read_rows
from fedsim.durable import PART, append_whole, sync_folder, write_whole, writing
from fedsim.errors import BadInput, Damaged, FedsimError
from fedsim.interrupts import Interrupted
from fedsim.jsonable import jsonable
from fedsim.paths import dated
from fedsim.scenario import Scenario

PACKAGES = ("fedsim", "torch", "flwr", "opacus", "dp-accounting", "numpy", "scikit-learn")
KEPT_CHECKPOINTS = 2


@dataclass
class Progress:
    """Where a run is; together with the server's tensors this is all that a checkpoint holds."""

    round: int = 0
    rounds_bytes: int = 0
    cohorts_bytes: int = 0
    best_loss: float = math.inf
    stale_evaluations: int = 0
    invalid_updates: int = 0
    left_out: int = 0
    skipped_rounds: int = 0
    seconds: float = 0.0
    clock: float = 0.0  # simulated seconds
    asked: int = 0
    arrived: int = 0
    drop_outs: int = 0
    late: int = 0  # of the drop-outs, as are those who are absent
    absent: int = 0
    surplus: int = 0
    forgot: int = 0
    rejected: int = 0  # replies that could not be right
    scenario: str = ""  # its fingerprint
    ledger_position: int = 0  # what the ledger then held can never be missing from it


class RunDirectory:
    """The files of one run (section 8 of the design); ``path`` must exist."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path | None, scenario: Scenario) -> RunDirectory:
        """Make the directory with the resolved scenario and the environment; raises ``BadInput`` if it exists.

        Without a path it is ``runs/<name>-<digest>-<time>``, or the first like it that nobody else made.
        """
        run = cls(_made([path] if path else dated(f"runs/{scenario.name}-{scenario.digest}")))
        try:
            run._begin(scenario)
        except BaseException as error:
            shutil.rmtree(run.path, ignore_errors=True)  # it could not be gone on with
            if isinstance(error, OSError):
                raise FedsimError(f"The run directory {run.path} cannot be made: {error.strerror}.") from error
            raise
        return run

    def _begin(self, scenario: Scenario) -> None:
        (self.path / "rounds.jsonl").touch()
        (self.path / "checkpoint").mkdir()
        sync_folder(self.path.parent)
        write_whole(self.path / "scenario.toml", scenario.to_toml().encode())
        write_whole(self.path / "environment.json", _json(environment()))  # with which the run begins

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no other process work on the run while the block lasts, and say after Ctrl-C how to go on with it.

        Raises ``BadInput`` if another process does: the lock is gone with the process that has it.
        """
        with self._writing():
            lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock(lock)
            yield
        except (KeyboardInterrupt, Interrupted) as error:
            raise Interrupted(f"Stopped. Go on with: fedsim resume {self.path}") from error
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"Another process works on the run in {self.path}; wait for it or stop it.") from error

    def ended(self) -> dict[str, Any] | None:
        """The summary of a run that came to its end and left all its files behind; else None."""
        file = self.path / "summary.json"
        if not file.exists() or not (self.path / "report.html").exists():  # the report is written last
            return None
        summary = read_json(file)
        if not isinstance(summary, dict) or not isinstance(summary.get("status"), str):
            raise Damaged(f"{file} is damaged: it does not say how the run ended.")
        return None if summary["status"] == "interrupted" else summary

    def discard_end(self) -> None:
        """Remove what a stop left behind: its summary and report, what was not written whole, an old checkpoint."""
        with self._writing():
            for name in ("report.html", "summary.json"):
                (self.path / name).unlink(missing_ok=True)
            for part in [*self.path.glob(f"*{PART}"), *self.path.glob(f"checkpoint/*{PART}")]:
                part.unlink()
            self._prune()

    @cached_property
    def run_id(self) -> str:
        """The run's name in the ledger."""
        file = self.path / "environment.json"
        found = read_json(file)
        if not isinstance(found, dict) or not isinstance(found.get("run_id"), str):
            raise Damaged(f"{file} is damaged: it holds no run_id.")
        return str(found["run_id"])

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON whole or not at all; infinity becomes the string "inf"."""
        self._write(self.path / name, _json(value))

    def append_round(self, row: dict[str, Any], progress: Progress) -> None:
        """Add one line to rounds.jsonl, after the lines that ``progress`` knows of."""
        line = (json.dumps(jsonable(row)) + "\n").encode()
        progress.rounds_bytes += self._append("rounds.jsonl", line, progress.rounds_bytes)

    def append_cohort(self, cohort: NDArray[np.int64], progress: Progress) -> None:
        """Add a round's clients to cohorts.bin; a checkpoint holds the length alone, so it does not grow with them."""
        data = cohort.astype("<i4").tobytes()
        progress.cohorts_bytes += self._append("cohorts.bin", data, progress.cohorts_bytes)

    def participations(self, clients: int) -> NDArray[np.int64]:
        """In how many rounds each client took part ``[clients]``."""
        file = self.path / "cohorts.bin"
        members = np.fromfile(file, "<i4") if file.exists() else np.zeros(0, "<i4")
        if ((members < 0) | (members >= clients)).any():
            raise Damaged(f"{file} is damaged: it names a client that there is not.")
        return np.bincount(members, minlength=clients)

    def rounds(self) -> list[dict[str, Any]]:
        """The lines of rounds.jsonl."""
        file = self.path / "rounds.jsonl"
        return read_rows(file) if file.exists() else []

    def save_checkpoint(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Save the state after a round as one file, and drop all but the newest two."""
        data = pack_checkpoint(tensors, json.dumps(jsonable(asdict(progress))), self.run_id)
        self._write(self.path / "checkpoint" / f"{progress.round:08d}.safetensors", data)
        with self._writing():
            self._prune()

    def _prune(self) -> None:
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def load_checkpoint(self) -> tuple[dict[str, Tensor], Progress] | None:
        """The newest checkpoint that is whole, if any; what is appended to every round is cut back to it.

        Raises ``FedsimError`` if it is another run's, or if another version of fedsim wrote it.
        """
        torn: list[str] = []
        for file in reversed(self._checkpoints()):
            try:
                tensors, about = read_checkpoint(file)
            except Torn:
                torn.append(file.name)
                continue
            self._warn_of(torn, f"the run goes on from {file.name}")
            progress = self._progress(file, about)
            self._cut(progress)
            return tensors, progress
        self._warn_of(torn, "the run begins again")
        self._cut(Progress())
        return None

    def _warn_of(self, torn: list[str], then: str) -> None:
        if torn:
            text = "%s: %s in checkpoint/ is not whole, so %s."
            logging.getLogger("fedsim").warning(text, self.path, " and ".join(torn), then)

    def _progress(self, file: Path, about: dict[str, str]) -> Progress:
        found = json.loads(about["progress"])
        if about["run"] != self.run_id:
            raise FedsimError(f"{file} is a checkpoint of another run: the run cannot be resumed from it.")
        if odd := set(found) ^ {field.name for field in fields(Progress)}:
            raise FedsimError(OTHER_VERSION.format(file=file, why=f"it differs in {', '.join(sorted(odd))}"))
        return Progress(**found | {"best_loss": float(found["best_loss"])})

    def save_model(self, tensors: dict[str, Tensor]) -> None:
        """Write model.safetensors: named parameters."""
        self._write(self.path / "model.safetensors", save(to_cpu(tensors)))

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoint").glob("*.safetensors"))

    def _cut(self, progress: Progress) -> None:
        for name, length in (("rounds.jsonl", progress.rounds_bytes), ("cohorts.bin", progress.cohorts_bytes)):
            file = self.path / name
            found = file.stat().st_size if file.exists() else 0
            if found < length:
                raise FedsimError(
                    f"{file} has {found} bytes, but {length} were written up to round {progress.round}: something "
                    "else changed it. Put it back, then resume."
                )
            with self._writing():
                if found > length:
                    os.truncate(file, length)

    def _append(self, name: str, data: bytes, at: int) -> int:
        """Add to a file of ``at`` bytes, durably; returns the number of bytes."""
        with self._writing():
            append_whole(self.path / name, data, at)
        return len(data)

    def _write(self, file: Path, data: bytes) -> None:
        with self._writing():
            write_whole(file, data)

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writing(f"The run directory {self.path}", "Every finished round is kept; mend this and resume.")


def _json(value: Any) -> bytes:
    return (json.dumps(jsonable(value), indent=2) + "\n").encode()


def _made(paths: Iterable[Path]) -> Path:
    """The first of some directories that does not exist, made."""
    for path in paths:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise BadInput(f"The run directory {path} cannot be made: {error.strerror}.") from error
        return path
    raise BadInput(f"The run directory {path} exists already; name another, or use --resume to go on.")


def environment() -> dict[str, Any]:
    """What the run ran on, and its random id in the ledger."""
    return {
        "run_id": secrets.token_hex(8),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": [word.encode(errors="backslashreplace").decode() for word in sys.argv],  # bytes that are no text
        **{f"package {name}": _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
