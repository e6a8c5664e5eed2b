"""What becomes of a round's clients on the simulated clock: who is asked, whose updates arrive, what is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from fedsim.asynchronous.schedule import Turn
from fedsim.devices import Asked, Fate, RoundTimes, round_times
from fedsim.federation import Federation
from fedsim.pace import Pace
from fedsim.privacy.plan import Charge, PrivacyPlan
from fedsim.privacy.sampling import Fixed, Ids

# Cohorts of a size given by a share: 10 times 1.1 is 11, not the next number above 11.000000000000002.
ROUNDING = 1e-9


def nobody() -> Ids:
    """No ids."""
    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Outing:
    """A round's clients; all ids are ascending.

    Of those ``asked``, ``answering`` are trained and their reports reach the server; ``silent`` ones train too, but
    their reports do not arrive, and ``forgetful`` ones lose what they keep for themselves. ``downloads`` is how many
    received the model, ``surplus`` how many were asked only so that others could be left out, ``late`` how many missed
    the deadline, ``absent`` how many were not there, ``clock`` the simulated time at the end (None where time is not
    simulated), and ``turn`` an asynchronous run's part of the schedule.
    """

    round: int
    asked: Ids
    answering: Ids
    downloads: int
    silent: Ids = field(default_factory=nobody)
    forgetful: Ids = field(default_factory=nobody)
    surplus: int = 0
    late: int = 0
    absent: int = 0
    clock: float | None = None
    turn: Turn | None = None

    def uploads(self, answered: int) -> int:
        """How many reports reached the server in this round, when so many of its clients ``answered``."""
        return answered if self.turn is None else len(self.turn.arrived)

    @classmethod
    def of_turn(cls, turn: Turn) -> Outing:
        """The outing of those that start in a turn of an asynchronous run."""
        answering = np.setdiff1d(turn.started, turn.lost)
        downloads = len(turn.started)
        return cls(
            turn.number, turn.started, answering, downloads, turn.lost, turn.forgetful, clock=turn.seconds, turn=turn
        )


def candidates(federation: Federation, round_: int, clock: float, rng: np.random.Generator) -> Ids:
    """A round's cohort, ascending, before anybody's budget is looked at.

    Without client-level privacy, those who are not there are not drawn. With it the cohort is drawn by the rule that is
    accounted, from all clients, and who is not there drops out.
    """
    sampling, clients, pace = federation.plan.sampling, len(federation.population), federation.pace
    if pace is None or federation.plan.client is not None:
        return sampling.draw(clients, round_, rng)
    everybody = np.arange(clients)
    there = everybody[pace.fleet.available(everybody, round_, clock)]
    if isinstance(sampling, Fixed):
        wanted = math.ceil(sampling.size * (1 + pace.fleet.settings.over_selection) - ROUNDING)
        return np.sort(rng.choice(there, min(wanted, len(there)), replace=False))
    return np.intersect1d(sampling.draw(clients, round_, rng), there)


def go_out(federation: Federation, round_: int, cohort: Ids, clock: float) -> Outing:
    """What becomes of a synchronous round's cohort that sets out at ``clock`` seconds."""
    pace, sampling = federation.pace, federation.plan.sampling
    if pace is None:
        return Outing(round_, cohort, cohort, len(cohort))
    wanted = sampling.size if isinstance(sampling, Fixed) and pace.fleet.settings.over_selection else None
    available = pace.fleet.available(cohort, round_, clock)
    times = round_times(pace.fleet, Asked(round_, cohort, available, wanted), pace.load_of(cohort))
    return Outing(
        round_,
        cohort,
        cohort[times.counted],
        int(times.reached.sum()),
        cohort[times.of_fate(Fate.DROPPED, Fate.LATE, Fate.SURPLUS)],
        cohort[times.loses_state],
        surplus=int(times.of_fate(Fate.SURPLUS).sum()),
        late=int(times.of_fate(Fate.LATE).sum()),
        absent=int(times.of_fate(Fate.UNAVAILABLE).sum()),
        clock=clock + _seconds(federation, pace, times),
    )


def _seconds(federation: Federation, pace: Pace, times: RoundTimes) -> float:
    """How long the round lasts; where nobody was there, until the server asks again.

    Under client-level privacy no later cohort may depend on who was drawn in this one: where the clock decides who is
    there, a round lasts as long as it may.
    """
    settings = pace.fleet.settings
    if federation.plan.client is not None and settings.availability.follows_clock:
        assert settings.deadline_seconds is not None
        return settings.deadline_seconds
    if not times.reached.any():
        return max(times.round_seconds, settings.deadline_seconds or settings.retry_seconds)
    return times.round_seconds


def charges(plan: PrivacyPlan, outing: Outing) -> list[Charge]:
    """What a round spends; in an asynchronous run noise at the server is charged to those whose updates it is added to.

    Who that is follows from the schedule, which is public.
    """
    if outing.turn is None or plan.client is None or not plan.trusts_the_server:
        return plan.charges(outing.round, outing.asked)
    spent = plan.example.charges(outing.asked) if plan.example else []
    arrived = outing.turn.arrived
    return spent + ([Charge("client", plan.client.event, 1, arrived)] if len(arrived) else [])
