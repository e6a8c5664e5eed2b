"""Who starts and who arrives when: known before anything is trained, as no duration depends on what is learnt."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fedsim.asynchronous.methods import Asynchronous
from fedsim.devices.fleet import Fleet, Load
from fedsim.devices.round_times import AFTER, BEFORE, WHEN, event_uniforms
from fedsim.errors import BadInput
from fedsim.seeding import Stream, generator

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

# So often the server asks again when nobody is there, before the run is given up: at a minute each, two months.
MOST_RETRIES = 100_000


@dataclass(frozen=True)
class Turn:
    """All until one server step: a round of the record. Ids are ascending.

    ``started`` clients begin from the model as it was, at ``began`` seconds; of them, ``lost`` will fail before they
    send, and ``forgetful`` after that. ``arrived`` are those whose updates make the step, ``from_rounds`` the rounds in
    which they began, and ``seconds`` the time of the step.
    """

    number: int
    started: Ids
    began: NDArray[np.float64]
    lost: Ids
    forgetful: Ids
    arrived: Ids
    from_rounds: Ids
    seconds: float

    @property
    def staleness(self) -> Ids:
        """How many steps the server made since each of ``arrived`` began."""
        return self.number - self.from_rounds


@dataclass(frozen=True)
class Schedule:
    """An asynchronous run's turns, the same whenever they are gone through.

    Random choices are those of the scenario's cohort stream, addressed by the turn.
    """

    method: Asynchronous
    fleet: Fleet
    load: Load
    rounds: int

    def turns(self) -> Iterator[Turn]:
        """Every turn, from the first."""
        state = _Work(self)
        for number in range(1, self.rounds + 1):
            yield state.turn(number)

    @cached_property
    def most_starts(self) -> int:
        """How often the client that starts most often does so."""
        return self._most[0]

    @cached_property
    def most_arrivals(self) -> int:
        """In how many steps the client that arrives most often takes part."""
        return self._most[1]

    @cached_property
    def _most(self) -> tuple[int, int]:
        starts, arrivals = np.zeros((2, len(self.fleet)), np.int64)
        for turn in self.turns():
            starts[turn.started] += 1
            arrivals[turn.arrived] += 1
        return int(starts.max()), int(arrivals.max())


@dataclass
class _Work:
    """The clients at work. An event is (when, place in the queue, client, whether its update is sent).

    A client is idle unless it is in flight, and may start unless it did in this turn (it would train on the same
    batches from the same model) or has an update in this turn's step (one client would count twice in one sum).
    """

    schedule: Schedule
    now: float = 0.0
    retries: int = 0
    begun: int = 0
    events: list[tuple[float, int, int, bool]] = field(default_factory=list)
    since: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fleet, load = self.schedule.fleet, self.schedule.load
        everybody = np.arange(len(fleet))
        self.idle: Mask = np.ones(len(fleet), bool)
        self.ready = fleet.seconds_to_train(everybody, load)
        self.back = self.ready + fleet.seconds_to_send(everybody, load)

    def turn(self, number: int) -> Turn:
        """Go on until enough updates have arrived, or nobody is left who could send one."""
        rng = generator(self.schedule.fleet.draw_seed, Stream.COHORT, number)
        turn = _Turn(number, rng, self.idle.copy())
        while len(turn.arrived) < self.schedule.method.buffer_size:
            if not self.events or self.events[0][0] > self.now:
                self._start(turn)
            if not self.events:
                if not turn.may_start.any():
                    break
                self._ask_again()
                continue
            self.now, _, client, sent = heapq.heappop(self.events)
            self.idle[client] = True
            began = self.since.pop(client)
            if sent:
                turn.arrived.append((client, began))
            # Whoever began in an earlier turn and failed may begin again in this one.
            turn.may_start[client] = not sent and began < number
        return turn.done(self.now)

    def _start(self, turn: _Turn) -> None:
        """Fill the free places with clients that may start and are there."""
        free = self.schedule.method.concurrency - len(self.events)
        clients = self._pick(turn, free)
        if len(clients) == 0:
            return
        sent, ends = self._ends(turn, clients)
        for client, sends, end in zip(clients.tolist(), sent.tolist(), ends.tolist(), strict=True):
            heapq.heappush(self.events, (end, self.begun, client, sends))
            self.begun += 1
            self.since[client] = turn.number
        self.idle[clients] = turn.may_start[clients] = False
        turn.began |= dict.fromkeys(clients.tolist(), self.now)

    def _ends(self, turn: _Turn, clients: Ids) -> tuple[Mask, NDArray[np.float64]]:
        """Whether each client sends its update, and when that arrives or the client fails."""
        fleet = self.schedule.fleet
        dropout = fleet.settings.dropout
        if dropout.before_upload == dropout.after_upload == 0:
            return np.ones(len(clients), bool), self.now + self.back[clients]
        words = event_uniforms(fleet, turn.number, clients)
        sent = words[:, BEFORE] >= dropout.before_upload
        turn.lost += clients[~sent].tolist()
        turn.forgetful += clients[sent & (words[:, AFTER] < dropout.after_upload)].tolist()
        ready, back = self.ready[clients], self.back[clients]
        return sent, self.now + np.where(sent, back, ready + words[:, WHEN] * (back - ready))

    def _pick(self, turn: _Turn, count: int) -> Ids:
        """At most ``count`` clients, uniformly without replacement among those that may start and are there.

        Of many clients most may, so a few draws find enough; else all of them are looked at.
        """
        if count <= 0 or not turn.may_start.any():
            return np.zeros(0, np.int64)
        drawn = turn.rng.integers(len(self.idle), size=2 * count + 8)
        _, first = np.unique(drawn, return_index=True)
        found = self._there(turn, drawn[np.sort(first)])[:count]
        if len(found) < count:
            others = np.setdiff1d(self._there(turn, np.flatnonzero(turn.may_start)), found)
            more = min(count - len(found), len(others))
            found = np.concatenate([found, turn.rng.choice(others, more, replace=False)])
        return found

    def _there(self, turn: _Turn, clients: Ids) -> Ids:
        able = clients[turn.may_start[clients]]
        return able[self.schedule.fleet.available(able, turn.number, self.now, self.retries)]

    def _ask_again(self) -> None:
        """Nobody is at work and nobody is there: wait."""
        self.now += self.schedule.fleet.settings.retry_seconds
        self.retries += 1
        if self.retries > MOST_RETRIES:
            raise BadInput(
                f"devices.availability: nobody was there when the server asked {MOST_RETRIES:,} times, once every "
                "devices.retry_seconds."
            )


@dataclass
class _Turn:
    """A turn that is being made: its random choices, who may still start, and who did what."""

    number: int
    rng: np.random.Generator
    may_start: Mask
    began: dict[int, float] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    forgetful: list[int] = field(default_factory=list)
    arrived: list[tuple[int, int]] = field(default_factory=list)

    def done(self, now: float) -> Turn:
        """The turn, at the end of which it is ``now``."""
        lost, forgetful = (np.sort(np.array(each, np.int64)) for each in (self.lost, self.forgetful))
        began = np.array([self.began[client] for client in sorted(self.began)], np.float64)
        arrived = np.array(sorted(self.arrived), np.int64).reshape(-1, 2)
        started = np.array(sorted(self.began), np.int64)
        return Turn(self.number, started, began, lost, forgetful, arrived[:, 0], arrived[:, 1], now)
