"""A run's directory: what is written when, so that nothing is half-written and a stopped run can go on."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import secrets
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedsim.errors import BadInput, FedsimError
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
        path = run.path
        (path / "rounds.jsonl").touch()
        run.write_text("scenario.toml", scenario.to_toml())
        run.write_json("environment.json", environment())
        return run

    @property
    def run_id(self) -> str:
        """The run's name in the ledger."""
        return str(json.loads((self.path / "environment.json").read_text())["run_id"])

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file or nothing."""
        self._write(self.path / name, text.encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON whole or not at all; infinity becomes the string "inf"."""
        self.write_text(name, json.dumps(jsonable(value), indent=2) + "\n")

    def append_round(self, row: dict[str, Any], progress: Progress) -> None:
        """Add one line to rounds.jsonl, after the lines that ``progress`` knows of."""
        progress.rounds_bytes += self._append("rounds.jsonl", (json.dumps(jsonable(row)) + "\n").encode())

    def append_cohort(self, cohort: NDArray[np.int64], progress: Progress) -> None:
        """Add a round's clients to cohorts.bin; a checkpoint holds the length alone, so it does not grow with them."""
        progress.cohorts_bytes += self._append("cohorts.bin", cohort.astype("<i4").tobytes())

    def participations(self, clients: int) -> NDArray[np.int64]:
        """In how many rounds each client took part ``[clients]``."""
        file = self.path / "cohorts.bin"
        return np.bincount(np.fromfile(file, "<i4") if file.exists() else [], minlength=clients)

    def rounds(self) -> list[dict[str, Any]]:
        """The lines of rounds.jsonl."""
        file = self.path / "rounds.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def save_checkpoint(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Save the state after a round as one file, and drop all but the newest two."""
        data = save(_to_cpu(tensors), {"progress": json.dumps(jsonable(asdict(progress)))})
        self._write(self.path / "checkpoint" / f"{progress.round:08d}.safetensors", data)
        for old in self._checkpoints()[:-KEPT_CHECKPOINTS]:
            old.unlink()

    def load_checkpoint(self) -> tuple[dict[str, Tensor], Progress] | None:
        """The newest checkpoint that is whole, if any; what is appended to every round is cut back to it."""
        for file in reversed(self._checkpoints()):
            try:
                with safe_open(file, "pt") as stored:
                    tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                    fields = json.loads(stored.metadata()["progress"])
            except (SafetensorError, OSError, KeyError, TypeError, ValueError):
                continue  # torn: the one before it is used
            fields["best_loss"] = float(fields["best_loss"])
            progress = Progress(**fields)
            self._cut(progress)
            return tensors, progress
        self._cut(Progress())
        return None

    def save_model(self, tensors: dict[str, Tensor]) -> None:
        """Write model.safetensors: named parameters."""
        self._write(self.path / "model.safetensors", save(_to_cpu(tensors)))

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoint").glob("*.safetensors"))

    def _cut(self, progress: Progress) -> None:
        for name, length in (("rounds.jsonl", progress.rounds_bytes), ("cohorts.bin", progress.cohorts_bytes)):
            if (self.path / name).exists():
                os.truncate(self.path / name, length)

    def _append(self, name: str, data: bytes) -> int:
        """Add to a file, durably; returns the number of bytes."""
        with self._whole_or_error(), open(self.path / name, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return len(data)

    def _write(self, file: Path, data: bytes) -> None:
        """Write beside the file and rename, so that a reader finds the old or the new content, never a part."""
        temporary = file.with_name(file.name + ".part")
        with self._whole_or_error():
            with open(temporary, "wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, file)

    @contextlib.contextmanager
    def _whole_or_error(self) -> Any:
        try:
            yield
        except OSError as error:
            raise FedsimError(
                f"The run directory {self.path} cannot be written: {error.strerror}. "
                "Every finished round is kept; mend this and resume."
            ) from error


def _made(paths: Iterable[Path]) -> Path:
    """The first of some directories that does not exist, made, with room for checkpoints in it."""
    for path in paths:
        try:
            path.mkdir(parents=True)
            (path / "checkpoint").mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise BadInput(f"The run directory {path} cannot be made: {error.strerror}.") from error
        return path
    raise BadInput(f"The run directory {path} exists already; name another, or use --resume to go on.")


def _to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


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
