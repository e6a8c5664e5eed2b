"""Decoded copies of large published arrays, kept in the cache folder and memory-mapped.

Processes that load the same data share its pages, and a second load takes no time. Only public data sets are kept here,
one copy of each split; the folder may be deleted at any time, and with ``FEDSIM_CACHE=""`` nothing is kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.cache import cache_folder

WORTH_BYTES = 16 * 2**20  # smaller arrays are decoded as fast as they are found
_FORMAT = "1"  # of what is kept; raise it when the same files decode to something else
_log = logging.getLogger(__name__)

Decode = Callable[[], NDArray[np.float32]]


def decoded(name: str, files: Sequence[Path], constants: str, decode: Decode) -> NDArray[np.float32]:
    """What ``decode`` makes of ``files`` and ``constants``, from the kept copy (copy-on-write) if there is one.

    A copy counts only for files of the same place, size and time of change.
    """
    folder = cache_folder()
    if folder is None:
        return decode()
    file = folder / "data" / f"{name}-{_key(files, constants)}.npy"
    kept = _kept(file)
    if kept is not None:
        return kept
    values = decode()
    if values.nbytes < WORTH_BYTES:
        return values
    try:
        _keep(file, name, values)
    except OSError as error:
        _log.warning("A decoded copy of %s cannot be kept in %s (%s).", name, file.parent, error)
        return values
    kept = _kept(file)
    return values if kept is None else kept


def _key(files: Sequence[Path], constants: str) -> str:
    parts = [_FORMAT, constants]
    for file in files:
        state = file.stat()
        parts.append(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _kept(file: Path) -> NDArray[np.float32] | None:
    if not file.exists():
        return None
    try:
        values = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        _log.warning("The decoded copy %s is made anew (%s).", file, error)
        return None
    return values if values.dtype == np.float32 else None


def _keep(file: Path, name: str, values: NDArray[np.float32]) -> None:
    """Write the copy whole or not at all, and remove those of earlier files."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=file.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as out:
            np.save(out, values)
        Path(part).replace(file)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    for older in file.parent.glob(f"{name}-*.npy"):
        if older != file:
            older.unlink(missing_ok=True)
