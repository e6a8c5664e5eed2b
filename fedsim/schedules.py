"""Learning-rate schedules over rounds: the table of what ``[algorithm] local.schedule.kind`` may be.

Each gives the share of ``local.learning_rate`` for a round, counted from 1; ``losses`` are those of the evaluations so
far, on held-out data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsim.settings import Count, NonNegative, section

Share = Annotated[float, Field(gt=0, le=1)]


@section
@dataclass(frozen=True)
class Constant:
    """The same learning rate in every round."""

    kind: Literal["constant"] = "constant"

    def share(self, round_: int, rounds: int, losses: Sequence[float]) -> float:
        """Always 1."""
        return 1.0


@section
@dataclass(frozen=True)
class TimeDecay:
    """1 / (1 + decay (round - 1))."""

    kind: Literal["time"] = "time"
    decay: NonNegative = 0.05

    def share(self, round_: int, rounds: int, losses: Sequence[float]) -> float:
        """Falls with the number of rounds."""
        return 1 / (1 + self.decay * (round_ - 1))


@section
@dataclass(frozen=True)
class StepDecay:
    """Multiplied by ``factor`` after every ``every`` rounds."""

    kind: Literal["step"] = "step"
    every: Count = 10
    factor: Share = 0.5

    def share(self, round_: int, rounds: int, losses: Sequence[float]) -> float:
        """Falls in steps."""
        return float(self.factor ** ((round_ - 1) // self.every))


@section
@dataclass(frozen=True)
class Exponential:
    """Multiplied by ``factor`` after every round."""

    kind: Literal["exponential"] = "exponential"
    factor: Share = 0.98

    def share(self, round_: int, rounds: int, losses: Sequence[float]) -> float:
        """Falls by the same ratio in every round."""
        return float(self.factor ** (round_ - 1))


@section
@dataclass(frozen=True)
class Cosine:
    """Half a cosine, from 1 in the first round to ``final`` in the last (Loshchilov and Hutter 2017)."""

    kind: Literal["cosine"] = "cosine"
    final: Share = 0.01

    def share(self, round_: int, rounds: int, losses: Sequence[float]) -> float:
        """Falls slowly, fast, slowly."""
        done = (round_ - 1) / max(1, rounds - 1)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2


@section
@dataclass(frozen=True)
class Plateau:
    """Multiplied by ``factor`` whenever ``patience`` evaluations in a row have not improved the test loss."""

    kind: Literal["plateau"] = "plateau"
    patience: Count = 5
    factor: Share = 0.5

    def share(self, round_: int, rounds: int, losses: Sequence[float]) -> float:
        """Falls when the loss does not."""
        best, stale, falls = math.inf, 0, 0
        for loss in losses:
            stale = 0 if loss < best else stale + 1
            best = min(best, loss)
            if stale == self.patience:
                stale, falls = 0, falls + 1
        return float(self.factor**falls)


Schedule = Constant | TimeDecay | StepDecay | Exponential | Cosine | Plateau
SCHEDULES = {
    "constant": Constant,
    "time": TimeDecay,
    "step": StepDecay,
    "exponential": Exponential,
    "cosine": Cosine,  # Loshchilov and Hutter 2017, arXiv 1608.03983
    "plateau": Plateau,
}
