"""Paths named in a scenario."""

from __future__ import annotations

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
