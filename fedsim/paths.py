"""Paths named in a scenario."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

from fedsim.errors import BadInput


def expanded(key: str, path: str | Path) -> Path:
    """The path with ``~`` as the home folder; raises ``BadInput`` where it cannot be a path."""
    try:
        if "\0" in str(path):
            raise RuntimeError("it holds a null character")
        return Path(path).expanduser()
    except RuntimeError as error:  # a home folder that nobody has
        raise BadInput(f'{key} = "{path}" is no path: {str(error).rstrip(".")}.') from error


def dated(name: str) -> Iterator[Path]:
    """``<name>-<time>``, then the same with -2, -3, ...: two may start in one second, and clocks may go back."""
    first = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    yield Path(first)
    yield from (Path(f"{first}-{number}") for number in count(2))


def name_of(file: Path) -> str:
    """The name of a scenario that gives none: its file's, as far as its characters may be in one."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", file.stem).lstrip("-_.")[:100].rstrip("-") or "scenario"
