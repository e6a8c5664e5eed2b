"""What a sweep tries next: everything of a grid, settings drawn at random, or what TPE proposes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Protocol

from fedsim.seeding import Stream, generator
from fedsim.sweeps.settings import Sweep
from fedsim.sweeps.space import combinations
from fedsim.sweeps.trials import Json, Trial, distinct

# Per trial the objectives' values (mean over seeds), None where it failed.
Scores = Mapping[int, tuple[float, ...] | None]
ATTEMPTS = 100


class Proposer(Protocol):
    """Which settings come next, from those so far and their scores; none when the search is over."""

    def __call__(self, sweep: Sweep, trials: list[Trial], scores: Scores) -> list[Trial]:
        """The next batch, drawn from nothing but the arguments, so that a stopped sweep goes on the same way."""


def grid(sweep: Sweep, trials: list[Trial], scores: Scores) -> list[Trial]:
    """Every combination that differs, at once."""
    return [] if trials else list(distinct(combinations(sweep.space)))


def random(sweep: Sweep, trials: list[Trial], scores: Scores) -> list[Trial]:
    """So many different settings, at once; fewer where the space has no more."""
    if trials:
        return []
    count = sweep.search.trials or 0
    drawn = (random_values(sweep, number) for number in range(count + ATTEMPTS * count))
    return list(islice(distinct(drawn), count))


def random_values(sweep: Sweep, number: int) -> Json:
    """The setting that is drawn ``number``-th: uniform over choices and ranges (over magnitudes with ``log``)."""
    rng = generator(sweep.search.seed, Stream.SWEEP, number)
    return {key: axis.at(float(rng.random())) for key, axis in sweep.space.items()}


def tpe(sweep: Sweep, trials: list[Trial], scores: Scores) -> list[Trial]:
    """The next batch that Optuna's TPE sampler proposes."""
    from fedsim.sweeps.tpe import propose

    return propose(sweep, trials, scores)


PROPOSERS: dict[str, Proposer] = {"grid": grid, "random": random, "tpe": tpe}
