"""What happens to a round's cohort on the simulated clock."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedsim.devices.availability import Ids, Mask
from fedsim.devices.fleet import Fleet, Load
from fedsim.devices.rates import Floats
from fedsim.seeding import Stream, generator

# A client's words of a round, in this order.
BEFORE, WHEN, AFTER, TIE = range(4)


class Fate(IntEnum):
    """What became of a client that was asked."""

    COUNTED = 0
    UNAVAILABLE = 1  # it was not there, and never began
    DROPPED = 2  # it failed before its update had arrived
    LATE = 3  # it was not back by the deadline
    SURPLUS = 4  # enough others were faster


@dataclass(frozen=True)
class Asked:
    """A round's cohort: who is asked, who of them is there, and how many updates are wanted (None: all)."""

    round: int
    clients: Ids
    available: Mask
    wanted: int | None = None


@dataclass(frozen=True)
class RoundTimes:
    """A cohort on the clock, in the order in which it was asked ``[cohort]``; times count from the round's start.

    ``seconds`` is when a client's update is there, or when it failed. ``loses_state`` marks those that fail after their
    update is sent. ``round_seconds`` is when the server has all that it waits for.
    """

    fates: NDArray[np.int8]
    seconds: Floats
    loses_state: Mask
    round_seconds: float

    def of_fate(self, *fates: Fate) -> Mask:
        """Which clients had one of these fates ``[cohort]``."""
        return np.isin(self.fates, fates)

    @property
    def counted(self) -> Mask:
        """Whose update counts ``[cohort]``."""
        return self.of_fate(Fate.COUNTED)

    @property
    def reached(self) -> Mask:
        """Who received the model ``[cohort]``."""
        return ~self.of_fate(Fate.UNAVAILABLE)


def round_times(fleet: Fleet, asked: Asked, load: Load) -> RoundTimes:
    """What becomes of each client that is asked, and how long the round takes.

    With a deadline the server waits until then for whoever is missing; without one it sees at once that one is lost.
    """
    words = event_uniforms(fleet, asked.round, asked.clients)
    dropout, limit = fleet.settings.dropout, fleet.settings.deadline_seconds
    ready = fleet.seconds_to_train(asked.clients, load)
    back = ready + fleet.seconds_to_send(asked.clients, load)
    drops = words[:, BEFORE] < dropout.before_upload
    seconds = np.where(drops, ready + words[:, WHEN] * (back - ready), back)
    seconds[~asked.available] = 0.0
    fates = np.where(drops, Fate.DROPPED, Fate.COUNTED)
    if limit is not None:
        fates[(seconds > limit) & ~drops] = Fate.LATE
    fates[~asked.available] = Fate.UNAVAILABLE
    whole = _keep_first(fates, seconds, words[:, TIE], asked.wanted)
    loses_state = (words[:, AFTER] < dropout.after_upload) & (fates == Fate.COUNTED)
    return RoundTimes(fates.astype(np.int8), seconds, loses_state, _duration(fates, seconds, limit, whole))


def event_uniforms(fleet: Fleet, round_: int, clients: Ids) -> Floats:
    """Four numbers in [0, 1) of each client in a round ``[clients, 4]``, whoever else is asked."""
    return _events(fleet.draw_seed, len(fleet), round_)[clients]


@lru_cache(maxsize=1)  # an asynchronous round asks for its clients one by one
def _events(draw_seed: int, clients: int, round_: int) -> Floats:
    return generator(draw_seed, Stream.DEVICES, round_).random((clients, 4))


def _keep_first(fates: NDArray[np.int64], seconds: Floats, ties: Floats, wanted: int | None) -> bool:
    """Let only the first ``wanted`` of those that are back count, in place; whether there were as many."""
    back = np.flatnonzero(fates == Fate.COUNTED)
    if wanted is None:
        return False
    order = back[np.lexsort((ties[back], seconds[back]))]
    fates[order[wanted:]] = Fate.SURPLUS
    return len(back) >= wanted


def _duration(fates: NDArray[np.int64], seconds: Floats, limit: float | None, whole: bool) -> float:
    """The last update that counts; else the deadline if one is missing, or the moment at which the last was lost."""
    last = float(seconds[fates == Fate.COUNTED].max(initial=0.0))
    missing = np.isin(fates, (Fate.DROPPED, Fate.LATE, Fate.UNAVAILABLE))
    if whole or not missing.any():
        return last
    return limit if limit is not None else max(last, float(seconds[missing].max()))
