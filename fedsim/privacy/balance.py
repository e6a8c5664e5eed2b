"""What each client has spent of one unit of privacy, and the largest epsilon of any; a round costs its cohort."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.accounting import prompt_epsilon, rdp_epsilon, rough_epsilon
from fedsim.privacy.events import Composition, Event, compose
from fedsim.privacy.sampling import Ids

Deltas = float | NDArray[np.float64]

# How an upper bound on epsilon was found: each way is dearer and tighter than the one before.
_EXACT, _ROUGH, _RENYI = 0, 1, 2
_COARSENESS = 4.0


@dataclass
class _State:
    """A history that ``members`` clients share, who are all judged at ``delta``."""

    composition: Composition
    delta: float
    members: int


class Balance:
    """What each client has spent of one unit.

    Clients with the same history, judged at the same delta, share a state: ``state[client]`` is its number in
    ``states``. A charge moves the cohort from state to state, so it costs O(cohort); one for every client changes the
    histories themselves. A million clients have few distinct states.
    """

    def __init__(self, clients: int) -> None:
        self.state: NDArray[np.int32] = np.zeros(clients, np.int32)
        self._deltas: Deltas = 0.0
        self._take({0: _State((), 0.0, clients)})

    def _take(self, states: dict[int, _State]) -> None:
        """Have these states in place of all others; nothing is known of their epsilons."""
        self.states = states
        self._numbers = {(state.composition, state.delta): number for number, state in states.items()}
        self._next = max(states) + 1
        self._bounds: list[tuple[float, int, int]] = []  # a heap of (-bound, how it was found, number of the state)
        self._unbounded = list(states)
        self._within: dict[tuple[int, Event, int], bool] = {}

    def add(self, event: Event, count: int, clients: Ids | None) -> None:
        """Charge ``count`` events to some clients, or to all of them (None)."""
        if clients is None:
            spent = {number: self.after(number, event, count) for number in self.states}
            self._take({n: _State(spent[n], state.delta, state.members) for n, state in self.states.items()})
            return
        before = self.of(clients)
        moved = {old: self._move(old, size, event, count) for old, size in Counter(before).items()}
        self.state[clients] = [moved[old] for old in before]

    def of(self, clients: Ids) -> list[int]:
        """The numbers of some clients' states."""
        numbers: list[int] = self.state[clients].tolist()
        return numbers

    def after(self, state: int, event: Event, count: int) -> Composition:
        """The history of a client of this state after ``count`` more events."""
        return compose([*self.states[state].composition, (event, count)])

    def judge(self, deltas: Deltas) -> None:
        """Judge clients at these deltas from now on; O(clients), but at once if they are the same object as before."""
        if deltas is self._deltas:
            return
        values, group = np.unique(np.broadcast_to(deltas, self.state.shape), return_inverse=True)
        compositions = list(dict.fromkeys(state.composition for state in self.states.values()))
        places = {composition: place for place, composition in enumerate(compositions)}
        place_of = np.zeros(self._next, np.int64)
        for number, held in self.states.items():
            place_of[number] = places[held.composition]
        keys = place_of[self.state] * len(values) + group
        distinct, state, members = np.unique(keys, return_inverse=True, return_counts=True)
        olds, news = np.divmod(distinct, len(values))
        states = map(_State, [compositions[old] for old in olds.tolist()], values[news].tolist(), members.tolist())
        self.state, self._deltas = state.astype(np.int32), deltas
        self._take(dict(enumerate(states)))

    def within(self, state: int, event: Event, count: int, limit: float) -> bool:
        """Whether a client of this state may spend these events too; the same few questions come every round.

        The RDP bound is cheap and never below the reported number, so it often settles it. ``limit`` never changes.
        """
        question = (state, event, count)
        if question not in self._within:
            if len(self._within) > 4 * len(self.states) + 1000:  # most are of states that nobody is in any more
                self._within.clear()
            after, delta = self.after(state, event, count), self.states[state].delta
            self._within[question] = rdp_epsilon(after, delta) <= limit or prompt_epsilon(after, delta) <= limit
        return self._within[question]

    def largest(self) -> float:
        """The largest epsilon of any client at its delta; computed only for histories that can have it.

        The bounds of a history are kept for as long as somebody has it, so that a round costs those it has changed.
        """
        for number in self._unbounded:
            if number in self.states:
                fresh = self.states[number]
                heapq.heappush(self._bounds, (-rdp_epsilon(fresh.composition, fresh.delta), _RENYI, number))
        self._unbounded = []
        if len(self._bounds) > 2 * len(self.states) + 100:
            self._bounds = [bound for bound in self._bounds if bound[2] in self.states]
            heapq.heapify(self._bounds)
        while True:
            bound, found, number = self._bounds[0]
            state = self.states.get(number)
            if state is None:
                heapq.heappop(self._bounds)
            elif found == _EXACT:
                return -bound
            elif found == _ROUGH or len(self.states) == 1:
                exact = prompt_epsilon(state.composition, state.delta)
                heapq.heapreplace(self._bounds, (-exact, _EXACT, number))
            else:
                rough = rough_epsilon(state.composition, state.delta, _COARSENESS)
                heapq.heapreplace(self._bounds, (-rough, _ROUGH, number))

    def _move(self, old: int, clients: int, event: Event, count: int) -> int:
        """Take some clients out of a state, and return the number of the state that they are in then."""
        state, composition = self.states[old], self.after(old, event, count)
        new = self._numbers.get((composition, state.delta))
        if new is None:
            new, self._next = self._next, self._next + 1
            self._numbers[composition, state.delta] = new
            self.states[new] = _State(composition, state.delta, 0)
            self._unbounded.append(new)
        self.states[new].members += clients
        state.members -= clients
        if not state.members:
            del self.states[old], self._numbers[state.composition, state.delta]
        return new
