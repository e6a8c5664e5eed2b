"""What a run left on disk, as the report reads it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.documents import parse_json, read_text
from fedsim.errors import Damaged

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

    Raises FileNotFoundError where there is no summary, and ``Damaged``, naming it, for a file that is not valid JSON.
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
    return read_text(path) if path.exists() else ""


def read_document(path: Path) -> Json:
    """The JSON object in a file, empty where there is none; raises ``Damaged``, naming it, where it is none."""
    return json_object(path, read_text(path)) if path.exists() else {}


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
    """The JSON object in a text; raises ``Damaged``, naming the file, where it is none."""
    try:
        content = parse_json(text)
    except ValueError as error:
        raise Damaged(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise Damaged(f"{path} does not hold a JSON object")
    return content
