"""What looking at many private runs over the same data costs: all of them, or the best of a random number of them.

Read from the ledgers of the runs. By Renyi divergences, which the theorem needs (Papernot and Steinke 2022, arXiv
2110.03620); what composes by the reported accountant too.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from fedsim.privacy.accounting_rdp import capped
from fedsim.privacy.events import Event
from fedsim.privacy.looking_exact import History, composed, dearest, dominating, tighter
from fedsim.privacy.plan import Unit
from fedsim.privacy.selection import Floats, Tries, converted, divergences, selected

MOST_EVENTS = 600
_RATIOS = (1.0, 1.005, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 4.0, 16.0)


@dataclass(frozen=True)
class Looking:
    """Upper bounds on epsilon: of one setting, of all settings together, and of the best of ``tries`` of them.

    ``one_by`` and ``everything_by`` say by which accountant: "pld", the reported one, or "rdp". ``rounded`` is by how
    much noise and rates were rounded for "rdp", against the promise, because they are many; 1 is exact.
    """

    one: float
    everything: float
    best: float
    rounded: float
    tries: Tries
    one_by: str = "rdp"
    everything_by: str = "rdp"


def cost_of_looking(settings: Sequence[Sequence[Path]], unit: Unit, delta: float, tries: Tries) -> Looking:
    """The cost over ``settings``, each with the ledgers of its runs: the seeds of a setting count as one try.

    Every run counts by the client that lost most in it, so the bound holds whichever way the runs split the records.
    Infinite where a run charged nothing for the unit. Raises OSError or ``sqlite3.Error`` for unreadable ledgers.
    """
    histories = [[_history(path, unit) for path in paths] for paths in settings]
    rounding = _rounding({event for runs in histories for history in runs for event, _, _ in history})
    curves = [np.sum([_worst(history, rounding) for history in runs], axis=0) for runs in histories if runs]
    if not curves or any(not history for runs in histories for history in runs):
        return Looking(math.inf, math.inf, math.inf, 1.0, tries)
    best = converted(selected(np.max(curves, axis=0), tries), delta)
    everything = converted(np.sum(curves, axis=0), delta)
    wholes = [[dominating(history) for history in runs] for runs in histories if runs]
    one, one_by = dearest([composed(runs) for runs in wholes], [converted(curve, delta) for curve in curves], delta)
    everything, by = tighter(composed(each for runs in wholes for each in runs), everything, delta)
    return Looking(one, everything, best, rounding.ratio, tries, one_by, by)


@dataclass(frozen=True)
class _Rounding:
    """The divergences of every event, with noise rounded down and rate rounded up to a power of ``ratio``."""

    ratio: float
    curves: dict[Event, Floats]


def _rounding(events: set[Event]) -> _Rounding:
    """The finest rounding that leaves few enough events to compute."""
    ordered = sorted(events)
    values = np.array([(event.noise_multiplier, event.rate) for event in ordered]).reshape(-1, 2)
    kinds = np.unique([f"{event.sampling} {event.relation}" for event in ordered], return_inverse=True)[1]
    ratio = next((ratio for ratio in _RATIOS if _cells(values, kinds, ratio) <= MOST_EVENTS), _RATIOS[-1])
    rounded = {event: _rounded(event, ratio) for event in ordered}
    curves = {event: _divergences(event) for event in set(rounded.values())}
    return _Rounding(ratio, {event: curves[near] for event, near in rounded.items()})


def _cells(values: Floats, kinds: npt.NDArray[np.intp], ratio: float) -> int:
    """How many different events a rounding leaves, of noise and rate ``[events, 2]``."""
    if ratio == 1:
        return len(values)
    with np.errstate(divide="ignore"):
        powers = np.log(values) / math.log(ratio)
    return len(np.unique(np.column_stack([np.floor(powers[:, 0]), np.ceil(powers[:, 1]), kinds]), axis=0))


def _rounded(event: Event, ratio: float) -> Event:
    """Less noise and a higher rate never lose less."""
    if ratio == 1 or event.noise_multiplier == 0 or event.rate == 0:
        return capped(event)
    noise = ratio ** math.floor(math.log(event.noise_multiplier, ratio))
    rate = min(1.0, ratio ** math.ceil(math.log(event.rate, ratio)))
    return capped(replace(event, noise_multiplier=min(noise, event.noise_multiplier), rate=max(rate, event.rate)))


def _divergences(event: Event) -> Floats:
    if event.rate == 0:
        return 0.0 * divergences(replace(event, noise_multiplier=1.0, rate=1.0))
    if event.noise_multiplier == 0:
        return np.inf + divergences(replace(event, noise_multiplier=1.0, rate=1.0))
    return divergences(event)


def _worst(history: History, rounding: _Rounding) -> Floats:
    """At each order the largest divergence of any client of a run ``[orders]``."""
    everyone = [count * rounding.curves[event] for event, count, clients in history if clients is None]
    named = [(count * rounding.curves[event], clients) for event, count, clients in history if clients is not None]
    shared = np.sum(everyone, axis=0) if everyone else 0.0
    if not named:
        return np.asarray(shared)
    losses = np.zeros((1 + max(int(clients.max(initial=0)) for _, clients in named), len(named[0][0])))
    for loss, clients in named:
        losses[clients] += loss
    return np.asarray(losses.max(axis=0) + shared)


def charges(ledger: Path, unit: Unit) -> bool:
    """Whether a ledger holds any charge for a unit; raises ``sqlite3.Error`` for what is no ledger."""
    return bool(_history(ledger, unit))


def _history(ledger: Path, unit: Unit) -> History:
    """What a ledger charged for a unit: event, how often, and to which clients (None: all)."""
    query = (
        "SELECT noise_multiplier, rate, sampling, relation, SUM(count), clients FROM charges WHERE unit = ?"
        " GROUP BY noise_multiplier, rate, sampling, relation, clients"
    )
    with closing(_read_only(ledger)) as db:
        rows: Iterable[tuple[float, float, str, str, int, bytes | None]] = db.execute(query, (unit,)).fetchall()
    return [
        (Event(noise, rate, sampling, relation), count, None if blob is None else np.frombuffer(blob, "<i8"))  # type: ignore[arg-type]
        for noise, rate, sampling, relation, count, blob in rows
    ]


def _read_only(ledger: Path) -> sqlite3.Connection:
    """Opened so that SQLite touches nothing, unless a killed run left a log beside it that has to be read too."""
    log = ledger.with_name(ledger.name + "-wal")
    mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    return sqlite3.connect(f"file:{quote(str(ledger.resolve(strict=True)))}?{mode}", uri=True)
