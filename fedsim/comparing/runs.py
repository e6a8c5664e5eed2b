"""The runs that are compared: their records, their settings under dotted keys, and which differ in the seed alone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fedsim.errors import BadInput
from fedsim.report.inputs import Json, json_lines, read_document
from fedsim.report.keys import short_names

# What names a run, or says where its numbers go: no setting of what is trained.
APART = ("name", "seed", "output")


@dataclass(frozen=True)
class Run:
    """A finished run: its directory, its summary, and its settings under dotted keys, without name and seed."""

    path: Path
    summary: Json
    settings: dict[str, Any]
    seed: int

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
    """Runs that differ in the seed alone, and what they are called."""

    label: str
    runs: tuple[Run, ...]

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


def read_runs(paths: Iterable[str | Path]) -> list[Run]:
    """The runs in these directories; of a sweep's directory all that have finished. Raises ``BadInput``."""
    found = [run for path in paths for run in _expanded(Path(path))]
    if not found:
        raise BadInput("There is no finished run to compare.")
    return [_read(path) for path in dict.fromkeys(path.resolve() for path in found)]


def _expanded(path: Path) -> list[Path]:
    if (path / "summary.json").exists():
        return [path]
    if (path / "runs").is_dir():
        return sorted(summary.parent for summary in (path / "runs").glob("*/summary.json"))
    raise BadInput(f"{path} has no summary.json, so there is nothing to compare; is it a finished run?")


def _read(path: Path) -> Run:
    try:
        with _whole(path):
            summary = read_document(path / "summary.json")
            resolved = tomllib.loads((path / "scenario.toml").read_text())
    except FileNotFoundError as error:
        raise BadInput(f"{path} has no scenario.toml, so nobody can say what was run.") from error
    settings = flat({name: value for name, value in resolved.items() if name not in APART})
    return Run(path, summary, settings, int(resolved.get("seed", 0)))


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Raise ``BadInput`` that names the run for a file of its record that cannot be read."""
    try:
        yield
    except ValueError as error:
        raise BadInput(f"{path} is damaged: {error}.") from error


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Runs that differ in the seed alone together, in the order in which they were named."""
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.key, []).append(run)
    together = list(members.values())
    labels = _labels(together, differing([group[0].settings for group in together]))
    return [Group(label, tuple(group)) for label, group in zip(labels, together, strict=True)]


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The dotted keys that are not the same everywhere, sorted."""
    seen: dict[str, set[str]] = {}
    for each in settings:
        for key, value in each.items():
            seen.setdefault(key, set()).add(repr(value))
    everywhere = {key for key in seen if all(key in each for each in settings)}
    return sorted(key for key, values in seen.items() if len(values) > 1 or key not in everywhere)


_SHORT = 5  # so many differing settings fit into a label


def _labels(groups: Sequence[list[Run]], keys: Sequence[str]) -> list[str]:
    """What tells groups apart: their few differing settings, else their names; with numbers where those are equal."""
    first = [group[0] for group in groups]
    names = [str(run.summary.get("scenario", run.path.name)) for run in first]
    if len(groups) == 1:
        return names
    if len(keys) <= _SHORT:
        short = short_names(keys)
        names = [
            ", ".join(f"{short[key]}={setting_text(run.settings[key])}" for key in keys if key in run.settings)
            or f"without {short[keys[0]]}"
            for run in first
        ]
    return names if len(set(names)) == len(names) else [f"{number}: {name}" for number, name in enumerate(names, 1)]


def setting_text(value: Any) -> str:
    """A setting as it is written, a dash where a scenario has none."""
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
