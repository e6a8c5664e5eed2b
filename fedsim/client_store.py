"""What clients keep from round to round: a row each in a memory-mapped file, of which only the cohort's are touched."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import FedsimError

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
        try:
            folder.mkdir(exist_ok=True)
            file = folder / "rows.f32"
            with open(file, "ab") as rows:
                if rows.tell() not in (0, 4 * clients * size):
                    raise OSError(f"{file.name} has {rows.tell()} bytes, not {4 * clients * size}")
                rows.truncate(4 * clients * size)
            self._rows: Rows = np.memmap(file, np.float32, "r+", shape=(clients, size))
        except (OSError, ValueError) as error:
            raise FedsimError(f"The clients' state in {folder} cannot be opened: {error}.") from error

    def read(self, clients: Ids) -> Rows:
        """A copy of these clients' rows ``[n, size]``."""
        return np.asarray(self._rows[clients])

    def write(self, round_: int, clients: Ids, rows: Rows) -> None:
        """Replace these clients' rows in a round; what they held is saved first."""
        with self._lock:
            self._save(round_, clients)
            self._rows[clients] = rows

    def keep(self, round_: int) -> None:
        """Make a round's rows durable, and forget how to undo all rounds before the one before it."""
        self._rows.flush()  # type: ignore[attr-defined]
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
        for number, file in reversed(logs):
            if number <= round_:
                continue
            for clients, rows in reversed(list(self._entries(file.read_bytes()))):
                self._rows[clients] = rows
            self._rows.flush()  # type: ignore[attr-defined]
            file.unlink()

    def _save(self, round_: int, clients: Ids) -> None:
        data = clients.astype("<i8").tobytes() + self.read(clients).tobytes()
        head = np.array([len(clients), zlib.crc32(data)], "<i8").tobytes()
        with open(self._folder / f"undo-{round_:08d}.bin", "ab") as log:
            log.write(head + data)
            log.flush()
            os.fsync(log.fileno())

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
