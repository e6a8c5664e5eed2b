"""The privacy ledger: an append-only SQLite record of events, charged before anything is released."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fedsim.durable import PART
from fedsim.errors import BadInput, BudgetExhausted, FedsimError
from fedsim.privacy.accounting import epsilon, rough_epsilon
from fedsim.privacy.balance import Balance as _Balance
from fedsim.privacy.balance import Deltas
from fedsim.privacy.events import Composition, Event
from fedsim.privacy.ledger_file import identity
from fedsim.privacy.plan import Charge, Unit
from fedsim.privacy.sampling import Ids

# Beyond so many different histories, a report bounds all epsilons but the largest a little less tightly.
EXACT_HISTORIES = 100
COARSENESS = 4.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (population TEXT NOT NULL, clients INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS charges (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL, round INTEGER NOT NULL, unit TEXT NOT NULL,
    noise_multiplier REAL NOT NULL, rate REAL NOT NULL, sampling TEXT NOT NULL, relation TEXT NOT NULL,
    count INTEGER NOT NULL,
    clients BLOB,  -- little-endian int64 ids, ascending; NULL is every client of the population
    UNIQUE (run, round, unit, noise_multiplier, rate, sampling, relation, count)
);
"""


@dataclass(frozen=True)
class Limit:
    """What each client may spend of a unit: ``epsilon`` at its delta ``[clients]``."""

    epsilon: float
    deltas: NDArray[np.float64]


class Ledger:
    """Events charged by the runs over one population; opened from (or created in) the SQLite file at ``path``.

    ``limits`` are checked inside the charging transaction, so runs that share a file cannot overspend together.
    Raises ``BadInput`` when the file belongs to another population or is no ledger, and ``FedsimError``, here as in all
    that is done with it, when it cannot be read or written.
    """

    def __init__(
        self, path: Path, population: str, clients: int, run: str, limits: dict[Unit, Limit] | None = None
    ) -> None:
        self.run, self.clients, self.limits = run, clients, limits or {}
        self._balances: dict[Unit, _Balance] = {"example": _Balance(clients), "client": _Balance(clients)}
        self._seen = 0
        self._path = path
        with self._usable():
            self._db = sqlite3.connect(path, isolation_level=None, timeout=60)
            # Durable against power loss too: a commit returns only when the event is on disk.
            self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + SCHEMA)
            self._file = identity(path)
            self._claim(path, population)
            self._catch_up()

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # the disk, or who may use it, or another process
            raise FedsimError(
                f"The ledger {self._path} cannot be used: {error}. Nothing was released that it does not hold; mend "
                "this, then start or resume the run."
            ) from error
        except sqlite3.DatabaseError as error:
            raise BadInput(f"The ledger {self._path} cannot be used: {error}.") from error

    def _claim(self, path: Path, population: str) -> None:
        with self._transaction():
            row = self._db.execute("SELECT population, clients FROM meta").fetchone()
            if row is None:
                self._db.execute("INSERT INTO meta VALUES (?, ?)", (population, self.clients))
            elif row != (population, self.clients):
                raise BadInput(f"The ledger {path} was kept for another population ({row[0]}, {row[1]} clients).")

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()  # whatever went wrong, no other run of this process shall wait for it

    @property
    def position(self) -> int:
        """The number of the last charge that it holds; it never falls."""
        return self._seen

    def close(self) -> None:
        """Fold the write-ahead log into the one file and close it."""
        with self._usable():
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._db.close()

    def copy_to(self, path: Path) -> None:
        """Write a copy of the whole ledger, replacing an older copy."""
        part = path.with_name(path.name + PART)
        with self._usable():
            part.unlink(missing_ok=True)
            self._db.execute("VACUUM INTO ?", (str(part),))
            os.replace(part, path)

    def absorb(self, path: Path) -> None:
        """Add all that another ledger was charged with; its clients must be the same, whatever their records."""
        columns = "run, round, unit, noise_multiplier, rate, sampling, relation, count, clients"
        with self._usable():
            other = sqlite3.connect(path)
            clients = other.execute("SELECT clients FROM meta").fetchone()[0]
            rows = other.execute(f"SELECT {columns} FROM charges ORDER BY id").fetchall()
            other.close()
            if clients != self.clients:
                raise BadInput(f"The ledger {path} was kept for {clients} clients, not {self.clients}.")
            with self._transaction():
                self._db.executemany(f"INSERT INTO charges ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
            self._catch_up()

    def charge(self, round_: int, charges: Sequence[Charge]) -> None:
        """Record a round's events, durably, before they are released; charging the same round again changes nothing.

        Raises ``BudgetExhausted``, with nothing recorded, if any client would exceed its limit.
        """
        with self._usable():
            self._check_there()
            with self._transaction():
                self._add(round_, charges)
            self._catch_up()

    def _add(self, round_: int, charges: Sequence[Charge]) -> None:
        self._catch_up()
        rows = [self._row(round_, charge) for charge in charges]
        before = self._rows(round_)
        if before:
            if sorted(map(repr, before)) != sorted(map(repr, rows)):
                raise BadInput(f"Round {round_} was charged before with other events; was the scenario changed?")
            return
        for charge in charges:
            self._refuse_overspending(charge)
        self._db.executemany(
            "INSERT INTO charges (run, round, unit, noise_multiplier, rate, sampling, relation, count, clients)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def _check_there(self) -> None:
        """SQLite goes on writing to a file that was removed: a charge there would be gone with this process."""
        if self._file != identity(self._path):
            raise FedsimError(
                f"The ledger {self._path} cannot be written: it was removed or replaced while it was in use. Nothing "
                "was released that it did not hold."
            )

    def _row(self, round_: int, charge: Charge) -> tuple[object, ...]:
        event = charge.event
        clients = None if charge.clients is None else charge.clients.astype("<i8").tobytes()
        key = (self.run, round_, charge.unit, event.noise_multiplier, event.rate, event.sampling, event.relation)
        return (*key, charge.count, clients)

    def _rows(self, round_: int) -> list[tuple[object, ...]]:
        query = (
            "SELECT run, round, unit, noise_multiplier, rate, sampling, relation, count, clients FROM charges"
            " WHERE run = ? AND round = ? ORDER BY id"
        )
        with self._usable():
            return self._db.execute(query, (self.run, round_)).fetchall()

    def charged(self, round_: int) -> bool:
        """Whether this run was charged for a round."""
        return bool(self._rows(round_))

    def cohort(self, round_: int) -> Ids | None:
        """Whom this run charged for their records in a round before it was stopped; None if it did not get there."""
        blobs = [row[8] for row in self._rows(round_) if row[2] == "example"]
        parts = [np.frombuffer(blob, "<i8") for blob in blobs if isinstance(blob, bytes)]
        return np.sort(np.concatenate(parts)) if parts else None

    def _catch_up(self) -> None:
        """Add the charges that were committed since the last look, ours and those of other runs."""
        query = (
            "SELECT id, unit, noise_multiplier, rate, sampling, relation, count, clients FROM charges"
            " WHERE id > ? ORDER BY id"
        )
        for number, unit, noise, rate, sampling, relation, count, blob in self._db.execute(query, (self._seen,)):
            clients = None if blob is None else np.frombuffer(blob, "<i8")
            self._balances[unit].add(Event(noise, rate, sampling, relation), count, clients)
            self._seen = number

    def _refuse_overspending(self, charge: Charge) -> None:
        if charge.unit not in self.limits:
            return
        excess = self._excess(charge)
        if excess:
            limit = self.limits[charge.unit]
            raise BudgetExhausted(
                f"The next round would exceed the {charge.unit}-level budget of epsilon {limit.epsilon:g} "
                f"(delta {limit.deltas.max():g}) at {excess} client(s)."
            )

    def _excess(self, charge: Charge) -> int:
        """How many of the charge's clients would exceed the unit's limit."""
        if charge.clients is not None:
            return int((~self.affordable(charge)).sum())
        balance, limit = self._balances[charge.unit], self.limits[charge.unit]
        balance.judge(limit.deltas)
        asked = (charge.event, charge.count, limit.epsilon)
        return sum(state.members for number, state in balance.states.items() if not balance.within(number, *asked))

    def affordable(self, charge: Charge) -> NDArray[np.bool_]:
        """Which of the charge's clients, who must be named, stay within the unit's limit ``[clients]``."""
        assert charge.clients is not None
        balance, limit = self._balances[charge.unit], self.limits.get(charge.unit)
        if limit is None:
            return np.ones(len(charge.clients), bool)
        balance.judge(limit.deltas)
        numbers = balance.of(charge.clients)
        fits = {number: balance.within(number, charge.event, charge.count, limit.epsilon) for number in set(numbers)}
        return np.array([fits[number] for number in numbers], bool)

    def spent(self, unit: Unit, delta: Deltas) -> float:
        """The largest epsilon of any client at its delta; computed only for clients that can be the largest."""
        balance = self._balances[unit]
        balance.judge(delta)
        return balance.largest()

    def epsilons(self, unit: Unit, delta: Deltas) -> NDArray[np.float64]:
        """Every client's epsilon at its delta ``[clients]``.

        With more than a hundred different histories all but the largest are upper bounds within 1 %, found faster.
        """
        balance = self._balances[unit]
        balance.judge(delta)
        values = np.zeros(max(balance.states) + 1)
        if len(balance.states) <= EXACT_HISTORIES:
            for number, state in balance.states.items():
                values[number] = epsilon(state.composition, state.delta)
        else:
            largest = balance.largest()
            for number, state in balance.states.items():
                values[number] = min(largest, rough_epsilon(state.composition, state.delta, COARSENESS))
        return values[balance.state]

    def compositions(self, unit: Unit) -> list[Composition]:
        """The distinct histories of the unit's clients."""
        return [state.composition for state in self._balances[unit].states.values()]

    def composition(self, unit: Unit, client: int) -> Composition:
        """All events charged to one client."""
        balance = self._balances[unit]
        return balance.states[int(balance.state[client])].composition


class _Transaction:
    """An immediate SQLite transaction, so that of two runs sharing a ledger one waits for the other."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # not where SQLite rolled back by itself, as on a full disk
                self._db.execute("ROLLBACK")
