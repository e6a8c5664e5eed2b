"""The file of a ledger: which one it is, and its end."""

from __future__ import annotations

import os
from pathlib import Path

from fedsim.errors import FedsimError


def identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever it is called; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def remove_ledger(path: Path) -> None:
    """Remove a ledger with what SQLite keeps beside it; raises ``FedsimError`` where that cannot be done."""
    try:
        for suffix in ("-wal", "-shm", ""):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise FedsimError(f"The ledger {path} cannot be made anew: {error.strerror}.") from error
