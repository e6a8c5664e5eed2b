"""The runs that are compared: their records, their settings under dotted keys, and which differ in the seed alone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fedsim.comparing.labels import flat, labels
from fedsim.comparing.sweeps import WORKERS, SweepOfRuns
from fedsim.errors import BadInput
from fedsim.report.inputs import Json, json_lines, read_document

# What names a run, or says where its numbers go: no setting of what is trained.
APART = ("name", "seed", "output")
UNFINISHED = ("interrupted", "pruned", "failed")  # what such a run measured is no result of its setting


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, its summary, and its settings under dotted keys, without name and seed.

    ``row`` is its line in the record of the sweep that it belongs to, if it does.
    """

    path: Path
    summary: Json
    settings: dict[str, Any]
    seed: int
    row: Json

    @property
    def status(self) -> str:
        """How it ended; a run that was pruned does not know it, but its sweep does."""
        return str(self.row.get("status") or self.summary.get("status"))

    @property
    def whole(self) -> bool:
        """Whether it ended by itself."""
        return self.status not in UNFINISHED

    @cached_property
    def rounds(self) -> list[Json]:
        """The lines of rounds.jsonl; raises ``BadInput`` where one is damaged."""
        with _whole(self.path):
            return json_lines(self.path / "rounds.jsonl")

    @cached_property
    def clients(self) -> Json:
        """What the record says of clients; raises ``BadInput`` where it is damaged."""
        with _whole(self.path):
            return read_document(self.path / "clients.json")

    @cached_property
    def key(self) -> str:
        """The same for runs that differ in the seed alone."""
        return json.dumps(self.settings, sort_keys=True)


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone, their number among those that are compared, and what tells them apart."""

    number: int
    label: str
    runs: tuple[Run, ...]

    @property
    def title(self) -> str:
        """What it is called wherever it is shown; no other group is called so."""
        return f"[{self.number}] {self.label}"

    @property
    def whole(self) -> Group:
        """The same without the runs that did not end by themselves; it may be empty."""
        return replace(self, runs=tuple(run for run in self.runs if run.whole))

    @property
    def trial(self) -> int | None:
        """The number of the setting in their sweep, if they are of one."""
        found = {(run.path.parent, run.row.get("trial")) for run in self.runs}
        return next(iter(found))[1] if len(found) == 1 else None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that they share."""
        return self.runs[0].settings

    def by_seed(self, metric: str) -> dict[int, float]:
        """A metric for each seed; of runs with the same seed their mean."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            value = (run.summary.get("metrics") or {}).get(metric)
            if isinstance(value, int | float):
                found.setdefault(run.seed, []).append(float(value))
        return {seed: sum(values) / len(values) for seed, values in sorted(found.items())}


def read_runs(paths: Iterable[str | Path]) -> tuple[list[Run], list[str]]:
    """The runs in these directories, of a sweep's all that ended without failing, and a sentence for each with others.

    Raises ``BadInput`` where there is none, or one is damaged.
    """
    sweeps: dict[Path, SweepOfRuns] = {}
    found, left_out = [], []
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        if (path / "summary.json").exists():
            found.append(path)
            continue
        sweep = _sweep(path, sweeps)
        found += sweep.finished()
        left_out.append(sweep.left_out())
    if not found:
        raise BadInput(" ".join(["There is no finished run to compare.", *filter(None, left_out)]))
    return [_read(path, sweeps) for path in dict.fromkeys(found)], list(filter(None, left_out))


def _sweep(path: Path, sweeps: dict[Path, SweepOfRuns]) -> SweepOfRuns:
    """The sweep in a directory, read once."""
    if not (path / "runs").is_dir():
        raise BadInput(f"{path} has no summary.json, so there is nothing to compare; is it a finished run?")
    if path not in sweeps:
        with _whole(path):
            sweeps[path] = SweepOfRuns.read(path)
    return sweeps[path]


def _read(path: Path, sweeps: dict[Path, SweepOfRuns]) -> Run:
    try:
        with _whole(path):
            summary = read_document(path / "summary.json")
            resolved = tomllib.loads((path / "scenario.toml").read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{path} has no scenario.toml, so nobody can say what was run.") from error
    settings = flat({name: value for name, value in resolved.items() if name not in APART})
    sweep = _sweep(path.parent.parent, sweeps) if path.parent.name == "runs" else SweepOfRuns(path)
    row = sweep.rows.get(path.name, {})
    if row and sweep.shares_threads:
        settings.pop(WORKERS, None)
    return Run(path, summary, settings, int(resolved.get("seed", 0)), row)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Raise ``BadInput`` that names the run for a file of its record that cannot be read."""
    try:
        yield
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}.") from error


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in the seed alone together, in the order in which they were named."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.key, []).append(run)
    together = list(members.values())
    names = [str(group[0].summary.get("scenario", group[0].path.name)) for group in together]
    told = labels([group[0].settings for group in together], names)
    return [
        Group(number, label, tuple(group)) for number, (label, group) in enumerate(zip(told, together, strict=True), 1)
    ]
