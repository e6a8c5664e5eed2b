"""Every operation by which a run puts something on disk, and what may happen there: death, a full or read-only disk."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from fedsim.privacy import ledger

DIED = 77
What = Literal["before", "half", "full", "read-only"]
CALLS = ("fsync", "replace", "truncate", "unlink", "mkdir", "rmdir", "pwrite")
NEED_SPACE = ("fsync", "mkdir", "pwrite", "commit")


@dataclass
class Moments:
    """Counts a process's operations on disk; at number ``at`` ``what`` happens.

    "before" it the process dies, as by SIGKILL, or when "half" of what it writes is written; from there on the disk is
    "full" (what needs no room still works), or "read-only".
    """

    at: int | None = None
    what: What = "before"
    seen: list[str] = field(default_factory=list)

    def arm(self) -> None:
        """Watch this process, which is not to be used for anything else."""
        for name in CALLS:
            setattr(os, name, self._watched(name, getattr(os, name)))
        leave = ledger._Transaction.__exit__

        def commit(transaction: Any, kind: object, *rest: object) -> None:
            try:
                self._happen("commit")
            except OSError as error:
                transaction._db.execute("ROLLBACK")
                raise sqlite3.OperationalError(error.strerror) from error
            leave(transaction, kind, *rest)

        ledger._Transaction.__exit__ = commit  # type: ignore[method-assign]

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            if name == "pwrite" and self.what == "half" and len(self.seen) == self.at:
                descriptor, data, at = arguments
                call(descriptor, data[: len(data) // 2], at)
                os._exit(DIED)
            self._happen(name)
            return call(*arguments, **options)

        return watched

    def _happen(self, name: str) -> None:
        self.seen.append(name)
        if self.at is None or len(self.seen) <= self.at:
            return
        if self.what in ("before", "half"):
            os._exit(DIED)
        if self.what == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        if name in NEED_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def moments_of(seen: list[str]) -> list[tuple[int, What]]:
    """Every moment at which a process that does these operations may die."""
    halves: list[tuple[int, What]] = [(at, "half") for at, name in enumerate(seen) if name == "pwrite"]
    return sorted([*((at, "before") for at in range(len(seen))), *halves])
