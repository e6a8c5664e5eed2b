"""What clients keep from round to round: a row each in one file, of which only the cohort's are touched."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.durable import append_whole, put, sync_folder
from fedsim.errors import FedsimError, StorageFailed

MOST_BYTES = 1 << 30  # in one call, of which systems take up to 2 GiB
Ids = NDArray[np.int64]
Rows = NDArray[np.float32]


class CarriedRows:
    """The rows ``[clients, size]`` of a job's clients, which came with it and go back with the reply."""

    def __init__(self, clients: Ids, rows: Rows) -> None:
        self.rows = rows.copy()
        self._order = np.argsort(clients)
        self._sorted = clients[self._order]

    def read(self, clients: Ids) -> Rows:
        """A copy of these clients' rows ``[n, size]``."""
        return self.rows[self._at(clients)]

    def write(self, round_: int, clients: Ids, rows: Rows) -> None:
        """Replace these clients' rows."""
        self.rows[self._at(clients)] = rows

    def _at(self, clients: Ids) -> Ids:
        return self._order[np.searchsorted(self._sorted, clients)]


class ClientStore:
    """Rows ``[clients, size]`` of float32 in a folder, zero until they are written; the file is sparse.

    What a round overwrites is kept beside it, so that a run that goes on from an earlier checkpoint finds every row as
    it was then. One process writes; its threads may write different clients at once.
    """

    def __init__(self, folder: Path, clients: int, size: int) -> None:
        self.size = size
        self._folder, self._lock = folder, threading.Lock()
        file = folder / "rows.f32"
        with self._whole_or_error("opened"):
            folder.mkdir(exist_ok=True)
            # Not memory-mapped: where a disk is full, a mapping ends the process instead of raising an error.
            self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            weakref.finalize(self, os.close, self._file)
            if (found := os.fstat(self._file).st_size) not in (0, 4 * clients * size):
                raise OSError(0, f"{file.name} has {found} bytes, not {4 * clients * size}")
            os.truncate(self._file, 4 * clients * size)
            sync_folder(folder)

    def read(self, clients: Ids) -> Rows:
        """A copy of these clients' rows ``[n, size]``."""
        rows = np.empty((len(clients), self.size), np.float32)
        with self._whole_or_error("read"):
            for part, client in self._stretches(clients):
                if os.preadv(self._file, [rows[part].data], 4 * self.size * client) != rows[part].nbytes:
                    raise OSError(0, f"rows.f32 ends in or before client {client}'s row; something else changed it")
        return rows

    def write(self, round_: int, clients: Ids, rows: Rows) -> None:
        """Replace these clients' rows in a round; what they held is saved first."""
        with self._lock, self._whole_or_error("written"):
            self._save(round_, clients)
            self._put(clients, rows)

    def keep(self, round_: int) -> None:
        """Make a round's rows durable, and forget how to undo all rounds before the one before it."""
        with self._whole_or_error("written"):
            os.fsync(self._file)
            for number, file in self._logs():
                if number < round_ - 1:
                    file.unlink()

    def rewind(self, round_: int) -> None:
        """Undo what rounds after this one wrote; raises ``FedsimError`` where that is forgotten for some of them."""
        logs = self._logs()
        if round_ == 0 and logs and logs[0][0] > 1:  # every finished round leaves a checkpoint, of which none is whole
            raise FedsimError(
                f"The clients' state in {self._folder} is that of round {logs[-1][0]}, and no checkpoint goes with it: "
                "the run cannot be resumed. Run the scenario again."
            )
        with self._whole_or_error("written"):
            for file in [file for number, file in reversed(logs) if number > round_]:
                for clients, rows in reversed(list(self._entries(file.read_bytes()))):
                    self._put(clients, rows)
                os.fsync(self._file)
                file.unlink()

    def _put(self, clients: Ids, rows: Rows) -> None:
        rows = np.ascontiguousarray(rows, np.float32)
        for part, client in self._stretches(clients):
            put(self._file, rows[part].data, 4 * self.size * client)

    def _stretches(self, clients: Ids) -> Iterator[tuple[slice, int]]:
        """Where clients are neighbours in the file, and the first of them: small rows are touched many at a time."""
        most = max(1, MOST_BYTES // (4 * self.size))
        ends = np.flatnonzero(np.diff(clients) != 1) + 1
        for begin, end in pairwise([0, *ends.tolist(), len(clients)]):
            for at in range(begin, end, most):
                yield slice(at, min(end, at + most)), int(clients[at])

    def _save(self, round_: int, clients: Ids) -> None:
        data = clients.astype("<i8").tobytes() + self.read(clients).tobytes()
        head = np.array([len(clients), zlib.crc32(data)], "<i8").tobytes()
        log = self._folder / f"undo-{round_:08d}.bin"
        append_whole(log, head + data, log.stat().st_size if log.exists() else 0)

    def _entries(self, data: bytes) -> Iterator[tuple[Ids, Rows]]:
        """What was saved, up to an entry that was torn: its rows had not been written yet."""
        at = 0
        while len(data) >= at + 16:
            count, checksum = np.frombuffer(data, "<i8", 2, at).tolist()
            length = count * (8 + 4 * self.size)
            body = data[at + 16 : at + 16 + length]
            if len(body) < length or zlib.crc32(body) != checksum:
                return
            rows = np.frombuffer(body, np.float32, count * self.size, 8 * count)
            yield np.frombuffer(body, "<i8", count), rows.reshape(count, self.size)
            at += 16 + length

    def _logs(self) -> list[tuple[int, Path]]:
        return [(int(file.stem.removeprefix("undo-")), file) for file in sorted(self._folder.glob("undo-*.bin"))]

    @contextlib.contextmanager
    def _whole_or_error(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageFailed(f"The clients' state in {self._folder} cannot be {what}: {error.strerror}.") from error
