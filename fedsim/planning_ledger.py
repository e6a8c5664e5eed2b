"""What a ledger file has spent and has left, read without touching it, and written out for other tools."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import BadInput, FedsimError
from fedsim.planning import VACUOUS, check_delta, most_steps
from fedsim.privacy.accounting import epsilon, to_dp_event, to_json
from fedsim.privacy.events import Composition, Event, compose

if TYPE_CHECKING:
    from fedsim.privacy.ledger import Ledger
    from fedsim.privacy.plan import Unit

_ATTEMPTS, _PAUSE_SECONDS = 40, 0.05  # to copy a ledger between two writes of a run


@dataclass(frozen=True)
class _Group:
    """Clients with the same history."""

    composition: Composition
    clients: int
    epsilon: float


def plan_ledger(
    path: Path, delta: float, budget_epsilon: float | None = None, export: Path | None = None
) -> dict[str, Any]:
    """Per unit the largest, median and smallest epsilon over all clients, who spent it, and what a budget leaves.

    ``left`` is how many further steps like the unit's last one the client that spent most could take. ``export`` is a
    file to write every group's history to. The ledger is only read. Raises ``BadInput``, with nothing written.
    """
    check_delta(delta)
    if budget_epsilon is not None and not 0 < budget_epsilon <= VACUOUS:
        raise BadInput(f"--budget-epsilon {budget_epsilon}: must be above 0 and at most {VACUOUS:g}.")
    if export is not None and export.exists():
        raise BadInput(f"--export {export}: it exists already; name another file.")
    with opened(path) as (ledger, population, charged):
        check_delta(delta, ledger.clients if "client" in charged else None)
        try:
            groups = {unit: _groups(ledger, unit, delta) for unit in charged}
            units = {unit: _spent(groups[unit], facts, delta) for unit, facts in charged.items()}
            if budget_epsilon is not None:
                for unit, facts in charged.items():
                    units[unit]["left"] = _left(groups[unit], facts["last"], budget_epsilon, delta)
        except (ValueError, OverflowError) as error:
            raise BadInput(f"{path} holds events that cannot be accounted together: {error}.") from error
        result: dict[str, Any] = {"population": population, "clients": ledger.clients, "units": units}
    if export is not None:
        _export(export, groups, population, delta)
        result["export"] = str(export)
    return result


@contextmanager
def opened(path: Path) -> Iterator[tuple[Ledger, str, dict[Unit, dict[str, Any]]]]:
    """The ledger, its population, and per unit the runs, the number of events and the last event."""
    from fedsim.privacy.ledger import Ledger

    if not path.is_file():
        raise BadInput(f"There is no ledger at {path}.")
    with tempfile.TemporaryDirectory() as folder:
        copy = _copy(path.resolve(), Path(folder))
        try:
            with closing(sqlite3.connect(copy)) as db:
                population, clients = db.execute("SELECT population, clients FROM meta").fetchone()
                charged = {
                    unit: _facts(db, unit) for (unit,) in db.execute("SELECT DISTINCT unit FROM charges").fetchall()
                }
            ledger = Ledger(copy, population, clients, run="")
        except (sqlite3.DatabaseError, TypeError, ValueError, FedsimError) as error:
            raise BadInput(f"{path} is not a privacy ledger: {str(error).rstrip('.')}.") from error
        try:
            yield ledger, population, charged
        finally:
            ledger.close()


def _copy(path: Path, folder: Path) -> Path:
    """A copy with its write-ahead log, so that not even SQLite touches the original; retried while a run writes."""
    files = [path, path.with_name(path.name + "-wal")]

    def state() -> list[tuple[str, int, int]]:
        found = [(file.name, file.stat()) for file in files if file.exists()]
        return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]

    for _ in range(_ATTEMPTS):
        before = state()
        for name, *_rest in before:
            shutil.copyfile(path.with_name(name), folder / name)
        if state() == before:
            return folder / path.name
        time.sleep(_PAUSE_SECONDS)
    raise FedsimError(f"{path} is being written all the time; try again when the run pauses.")


def _facts(db: sqlite3.Connection, unit: str) -> dict[str, Any]:
    runs = [
        run for (run,) in db.execute("SELECT run FROM charges WHERE unit = ? GROUP BY run ORDER BY MIN(id)", (unit,))
    ]
    (events,) = db.execute("SELECT SUM(count) FROM charges WHERE unit = ?", (unit,)).fetchone()
    last = db.execute(
        "SELECT noise_multiplier, rate, sampling, relation FROM charges WHERE unit = ? ORDER BY id DESC LIMIT 1",
        (unit,),
    ).fetchone()
    return {"runs": runs, "events": events, "last": Event(*last)}


def _groups(ledger: Ledger, unit: Unit, delta: float) -> list[_Group]:
    """Clients by history, in the order of epsilon."""
    held = {id(each): each for each in ledger.compositions(unit)}
    clients = Counter(id(ledger.composition(unit, client)) for client in range(ledger.clients))
    groups = [_Group(held[key], number, epsilon(held[key], delta)) for key, number in clients.items()]
    return sorted(groups, key=lambda group: group.epsilon)


def _spent(groups: list[_Group], facts: dict[str, Any], delta: float) -> dict[str, Any]:
    values = np.repeat([group.epsilon for group in groups], [group.clients for group in groups])
    low, high = values[(len(values) - 1) // 2], values[len(values) // 2]  # sorted; their mean, also of infinities
    return {
        "epsilon": groups[-1].epsilon,
        "delta": delta,
        "clients": {"max": float(values[-1]), "median": float(low + high) / 2, "min": float(values[0])},
        "spenders": sum(group.clients for group in groups if group.composition),
        "events": facts["events"],
        "runs": facts["runs"],
    }


def _left(groups: list[_Group], last: Event, budget: float, delta: float) -> dict[str, Any]:
    """How many further steps like ``last`` the client that spent most could take, and its epsilon then."""
    most = groups[-1].composition

    def after(steps: int) -> Composition:
        return compose([*most, (last, steps)])

    steps = most_steps(after, budget, delta)
    return {
        "budget_epsilon": budget,
        "steps": steps,
        "epsilon": epsilon(after(steps), delta),
        "mechanism": asdict(last),
    }


def _export(file: Path, groups: dict[Unit, list[_Group]], population: str, delta: float) -> None:
    """Write histories as JSON; who is in a group stays out, because who took part in a round can be a secret."""
    rows = [
        {
            "unit": unit,
            "clients": group.clients,
            "epsilon": group.epsilon if math.isfinite(group.epsilon) else "inf",
            "composition": to_json(group.composition),
            "dp_event": repr(to_dp_event(group.composition)),
        }
        for unit, members in groups.items()
        for group in members
    ]
    text = json.dumps({"population": population, "delta": delta, "groups": rows}, indent=2)
    try:
        file.write_text(text + "\n")
    except OSError as error:
        raise BadInput(f"--export {file}: it cannot be written: {error.strerror}.") from error
