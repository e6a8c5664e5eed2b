"""Answers that took long to compute, kept between processes in one SQLite file that may be deleted at any time.

The file is ``$FEDSIM_CACHE/accounting.db``, else ``$XDG_CACHE_HOME/fedsim/accounting.db``, else the same under
``~/.cache``; with ``FEDSIM_CACHE=""`` nothing is kept. A row is one whole question in words with the digest of the code
that answered it, so a change of the accounting makes every older answer invisible. A connection lives for one
statement, so forks, threads and other processes may use the file at the same time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

WORTH_SECONDS = 0.05  # quicker answers are not kept: finding one costs about 0.3 ms, and the file stays small

_FORMAT = "1"  # of the rows; raise it when the meaning of a question's words changes
_CODE = ("events.py", "accounting*.py", "calibration.py", "cache.py")
_LOCK_SECONDS = 2.0
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    version TEXT NOT NULL, question TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (version, question)
) WITHOUT ROWID
"""
_log = logging.getLogger(__name__)
_warned: set[Path] = set()


def remembered(question: str, compute: Callable[[], float], holds: Callable[[float], bool] | None = None) -> float:
    """The kept answer to ``question``, else that of ``compute``, which is kept if it took ``WORTH_SECONDS``.

    ``question`` must say everything that the answer depends on but the code. A kept answer is used only if it is a
    number that is not negative (infinity included) and ``holds`` agrees. Trouble with the file never reaches the
    caller: it is logged once, as a warning, and the answer is computed.
    """
    file = _file()
    if file is None:
        return compute()
    kept = _guarded(file, lambda: _read(file, question))
    if kept is not None and (holds is None or holds(kept)):
        return kept
    start = time.perf_counter()
    value = compute()
    if time.perf_counter() - start >= WORTH_SECONDS and value >= 0:
        _guarded(file, lambda: _write(file, question, value))
    return value


def _version() -> str:
    """A digest of the accounting code, which decides what the answers are; empty where its text is not at hand."""
    sources = sorted(source for pattern in _CODE for source in Path(__file__).parent.glob(pattern))
    digest = hashlib.sha256(_FORMAT.encode())
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16] if sources else ""


VERSION = (
    _version()
)  # when this is imported, as the code itself is, so that an edit under a running process is harmless


def _file() -> Path | None:
    """Where answers are kept; None where nothing is."""
    folder = cache_folder()
    return folder / "accounting.db" if VERSION and folder is not None else None


def cache_folder() -> Path | None:
    """``$FEDSIM_CACHE``, else ``fedsim`` in the user's cache folder; None where nothing is to be kept."""
    folder = os.environ.get("FEDSIM_CACHE")
    if folder is not None:
        return Path(folder) if folder else None
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # nobody's home
        return None
    return Path(caches) / "fedsim"


def _read(file: Path, question: str) -> float | None:
    if not file.exists():
        return None
    with closing(sqlite3.connect(file, timeout=_LOCK_SECONDS)) as db:
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'answers'").fetchone() is None:
            return None  # another process is about to make it
        query = "SELECT value FROM answers WHERE version = ? AND question = ?"
        row = db.execute(query, (VERSION, question)).fetchone()
    if row is not None and not (isinstance(row[0], float) and row[0] >= 0):
        raise ValueError(f"it holds {row[0]!r} where a number belongs")
    return None if row is None else row[0]


def _write(file: Path, question: str, value: float) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(sqlite3.connect(file, timeout=_LOCK_SECONDS)) as db, db:
        db.execute(_TABLE)
        db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", (VERSION, question, value))


def _guarded(file: Path, use: Callable[[], float | None]) -> float | None:
    """What ``use`` returns; None, and one warning a process, where the file cannot be used."""
    try:
        return use()
    except (sqlite3.Error, OSError, ValueError) as error:
        if file not in _warned:
            _warned.add(file)
            _log.warning(
                "The cache of privacy calculations %s is skipped (%s); delete it to mend it, or set FEDSIM_CACHE.",
                file,
                error,
            )
        return None
