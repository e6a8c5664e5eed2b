"""Files that a stop at any moment leaves whole: what is written is on disk before anything builds on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fedsim.errors import FedsimError

PART = ".part"  # how the name of a file ends until it is whole


@contextlib.contextmanager
def writing(what: str, then: str = "") -> Iterator[None]:
    """Raise ``FedsimError`` where the block raises ``OSError``: ``what`` cannot be written, why, and ``then``."""
    try:
        yield
    except OSError as error:
        raise FedsimError(f"{what} cannot be written: {error.strerror}. {then}".rstrip()) from error


def write_whole(file: Path, data: bytes) -> None:
    """Write beside the file and rename, so that a reader finds the old or the new content, never a part.

    Raises ``OSError``, with nothing left of the part.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}{PART}")  # two processes may make the same report
    try:
        with open(part, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell of
            part.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def append_whole(file: Path, data: bytes, at: int) -> None:
    """Add to a file of ``at`` bytes; raises ``OSError``, with the file as it was, also if it is of another length."""
    with open(file, "r+b" if at else "ab", buffering=0) as out:
        if (found := os.fstat(out.fileno()).st_size) != at:
            raise OSError(0, f"{file.name} has {found} bytes, not {at}; something else changed it")
        try:
            put(out.fileno(), data, at)
            os.fsync(out.fileno())
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell of
                os.truncate(file, at)
            raise
    if at == 0:
        sync_folder(file.parent)


def put(descriptor: int, data: bytes | memoryview, at: int) -> None:
    """Write all of it at an offset, of which the system may take less at a time; raises ``OSError``."""
    left = memoryview(data).cast("B")
    while left:
        written = os.pwrite(descriptor, left, at)
        left, at = left[written:], at + written


def sync_folder(folder: Path) -> None:
    """Make what was created or renamed in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
