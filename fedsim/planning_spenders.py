"""Who will spend what in a scenario: clients that are alike, and the releases that each of them takes part in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedsim.errors import BadInput
from fedsim.planning import VACUOUS, most_steps
from fedsim.privacy.accounting import epsilon, rdp_epsilon
from fedsim.privacy.calibration import UNLIMITED, calibrate_noise
from fedsim.privacy.events import Composition, Event, compose
from fedsim.privacy.plan import ClientPlan, ExamplePlan
from fedsim.privacy.planning import participations

if TYPE_CHECKING:
    from fedsim.asynchronous.schedule import Schedule
    from fedsim.scenario import Scenario

Times = Callable[[int], int]
UnitPlan = ExamplePlan | ClientPlan


@dataclass(frozen=True)
class Release:
    """An event that happens ``count`` times whenever its client takes part, and in how many of so many rounds it does.

    A run has one of them for each unit, folds have one each.
    """

    event: Event
    count: int
    times: Times

    def after(self, rounds: int, noise_multiplier: float | None = None) -> tuple[Event, int]:
        """The event, with another noise if that is given, and how often it has happened."""
        event = self.event if noise_multiplier is None else replace(self.event, noise_multiplier=noise_multiplier)
        return event, self.count * self.times(rounds)


@dataclass(frozen=True)
class Spender:
    """``clients`` that spend the same: what other runs charged ``before``, and this run's releases."""

    before: Composition
    releases: tuple[Release, ...]
    delta: float
    clients: int = 1

    def after(self, rounds: int, noise_multiplier: float | None = None) -> Composition:
        """All that one of them has released by the end of a round."""
        return compose([*self.before, *(release.after(rounds, noise_multiplier) for release in self.releases)])

    def epsilon(self, rounds: int) -> float:
        """Epsilon at the end of a round; where that means nothing any more, its Renyi bound."""
        return _reported(self.after(rounds), self.delta)

    def within(self, composition: Composition, target: float) -> bool:
        """Whether a composition keeps a target; the Renyi bound, which is larger and nearly free, is asked first."""
        return rdp_epsilon(composition, self.delta) <= target or _reported(composition, self.delta) <= target


def _reported(composition: Composition, delta: float) -> float:
    bound = rdp_epsilon(composition, delta)
    return bound if VACUOUS <= bound < math.inf else epsilon(composition, delta)


def largest(spenders: Sequence[Spender], rounds: int) -> float:
    """The largest epsilon at the end of a round; not computed where the Renyi bound is below the best."""
    bounded = [(rdp_epsilon(spender.after(rounds), spender.delta), spender) for spender in spenders]
    best = 0.0
    for bound, spender in sorted(bounded, key=lambda pair: -pair[0]):
        if bound <= best:
            break
        best = max(best, spender.epsilon(rounds))
    return best


def most_rounds(spenders: Sequence[Spender], target: float) -> int:
    """The last round at whose end everybody is within the target; ``UNLIMITED`` where there is no end."""
    rounds = UNLIMITED
    for spender in spenders:
        if rounds == UNLIMITED or not spender.within(spender.after(rounds), target):
            rounds = min(rounds, most_steps(spender.after, target, spender.delta))
    return rounds


def least_noise(spenders: Sequence[Spender], rounds: int, target: float) -> float | None:
    """The least noise multiplier, the same for all, that keeps everybody within the target; None if none does."""
    noise = 0.0
    for spender in spenders:
        if spender.within(spender.after(rounds, noise), target):
            continue
        if not spender.within(spender.before, target):
            return None
        try:
            noise = max(noise, calibrate_noise(partial(spender.after, rounds), target, spender.delta))
        except ValueError:  # what was spent before leaves too little
            return None
    return noise


def spenders_of(
    plans: Sequence[UnitPlan], times: Sequence[Times], histories: Sequence[Composition] | None = None
) -> list[Spender]:
    """The clients of a unit in groups; a plan and a rule of taking part for each fold, a history for each client."""
    clients = len(plans[0].deltas)
    rows: Counter[Any] = Counter()
    for client in range(clients if isinstance(plans[0], ExamplePlan) or histories else 1):
        events = tuple(_event(plan, client) for plan in plans)
        delta = min(float(plan.deltas[client]) for plan in plans)
        rows[histories[client] if histories else (), events, delta] += 1
    alone = len(rows) == 1
    return [
        Spender(
            before,
            tuple(Release(event, count, when) for (event, count), when in zip(events, times, strict=True)),
            delta,
            clients if alone else number,
        )
        for (before, events, delta), number in rows.items()
    ]


def _event(plan: UnitPlan, client: int) -> tuple[Event, int]:
    """What a client releases when it takes part, and how often."""
    return (plan.event(client), int(plan.steps[client])) if isinstance(plan, ExamplePlan) else (plan.event, 1)


def times_of(scenario: Scenario, plan: UnitPlan, schedule: Schedule | None) -> Times:
    """In how many of so many rounds a client takes part, or is charged as if it did, at most.

    Where clients are drawn and only those are charged, this is what 999 of 1,000 clients do not exceed.
    """
    own = isinstance(plan, ExamplePlan) or plan.placement == "client"
    if schedule is not None:
        counts = _counted(schedule, "started" if own else "arrived")
        return lambda rounds: counts[min(rounds, len(counts) - 1)]
    if isinstance(plan, ClientPlan) and scenario.privacy.client is not None and scenario.privacy.client.projected:
        return lambda rounds: rounds
    if not own:
        return scenario.cohort.sampling.times
    clients = len(plan.deltas)
    return lambda rounds: participations(replace(scenario, rounds=rounds), clients) if rounds else 0


def _counted(schedule: Schedule, what: str) -> list[int]:
    """How often the client that was in most turns so far was in one, from before the first turn on."""
    seen: Counter[int] = Counter()

    def most(turn: Any) -> int:
        seen.update(np.asarray(getattr(turn, what)).tolist())
        return max(seen.values(), default=0)

    return list(accumulate(map(most, schedule.turns()), max, initial=0))


def histories_of(file: Path, population: str, unit: Any) -> list[Composition]:
    """What every client of the population has been charged for a unit in a ledger, which is only read."""
    from fedsim.planning_ledger import opened

    with opened(file) as (ledger, found, charged):
        if found != population:
            raise BadInput(f'privacy.ledger = "{file}": it was kept for another population ({found}).')
        return [ledger.composition(unit, client) if unit in charged else () for client in range(ledger.clients)]
