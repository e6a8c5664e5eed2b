"""What a run left on disk, as the report reads it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """The record of one run: nothing else reaches the report."""

    scenario: str
    environment: Json
    rounds: list[Json]
    clients: Json
    summary: Json
    pictures: Json = field(default_factory=dict)


def read_record(run_directory: Path) -> RunRecord:
    """The record in `run_directory`; only `summary.json` is indispensable.

    Raises FileNotFoundError where there is no summary, and ValueError, naming the file, where a file is not valid JSON.
    """
    return RunRecord(
        scenario=_text(run_directory / "scenario.toml"),
        environment=read_document(run_directory / "environment.json"),
        rounds=json_lines(run_directory / "rounds.jsonl"),
        clients=read_document(run_directory / "clients.json"),
        summary=_required(run_directory / "summary.json"),
        pictures=read_document(run_directory / "pictures.json"),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def read_document(path: Path) -> Json:
    """The JSON object in a file, empty where there is none; raises ValueError, naming it, where it is damaged."""
    return json_object(path, path.read_text(encoding="utf-8")) if path.exists() else {}


def _required(path: Path) -> Json:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: {path.parent} holds no finished record of a run")
    return read_document(path)


def json_lines(path: Path) -> list[Json]:
    """One object per line; a torn last line, which a killed run did not finish, is left out."""
    complete, _, last = _text(path).rpartition("\n")
    rounds = [json_object(path, line) for line in complete.splitlines() if line.strip()]
    try:
        return [*rounds, json_object(path, last)]
    except ValueError:
        return rounds


def json_object(path: Path, text: str) -> Json:
    """The JSON object in a text; raises ValueError, naming the file, where it is none."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return content
