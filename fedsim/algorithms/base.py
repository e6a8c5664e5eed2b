"""What every federated algorithm has: local training, a server optimizer, and a transform of the local gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.optimizers import server_learning_rate
from fedsim.schedules import SCHEDULES, Constant, Schedule
from fedsim.settings import Count, NonNegative, Positive, choice, section

if TYPE_CHECKING:
    ScheduleChoice = Schedule
else:
    ScheduleChoice = choice("kind", SCHEDULES)


@section
@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """``epochs`` over the client's records, or exactly ``steps``; any element-wise ``torch.optim`` by name.

    The learning rate follows ``schedule`` over the rounds, and rises evenly to it in the first ``warmup_rounds``.
    ``max_grad_norm`` scales each step's gradient to at most this length (Pascanu et al. 2013, arXiv 1211.5063; not
    with [privacy.example], which clips every record's). ``l1`` and ``l2`` then add what ``l1 |w|`` and ``l2 / 2 |w|^2``
    in the loss would: to the gradient that DP-SGD has noised, as post-processing.
    """

    epochs: Count = 1
    steps: Count | None = None
    batch_size: Count = 32
    optimizer: str = "sgd"
    learning_rate: Positive = 0.1
    schedule: ScheduleChoice = Constant()
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    options: dict[str, Any] = field(default_factory=dict)
    l1: NonNegative = 0.0
    l2: NonNegative = 0.0
    max_grad_norm: Positive | None = None

    def scaled(self, gradient: Float[Tensor, "clients params"]) -> Float[Tensor, "clients params"]:
        """Each client's gradient, no longer than ``max_grad_norm``."""
        if self.max_grad_norm is None:
            return gradient
        norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        factors: Tensor = (self.max_grad_norm / norms).clamp(max=1)
        return gradient * factors

    def penalties(self, weights: Float[Tensor, "clients params"]) -> Float[Tensor, "clients params"]:
        """The penalties' gradient."""
        return self.l1 * weights.sign() + self.l2 * weights

    def learning_rate_at(self, round_: int, rounds: int, losses: Sequence[float]) -> float:
        """The learning rate of a round, counted from 1; ``losses`` are those of the evaluations so far."""
        warm = min(1.0, round_ / (self.warmup_rounds + 1))
        return self.learning_rate * warm * self.schedule.share(round_, rounds, losses)


@section
@dataclass(frozen=True, kw_only=True)
class ServerOptimizer:
    """An optimizer by name, stepping on the pseudo-gradient (Reddi et al. 2021, arXiv 2003.00295).

    Any of ``torch.optim``, or fedavgm, fedadagrad, fedadam, fedyogi, yogi. ``learning_rate`` left out is 1 for sgd,
    else the optimizer's own default.
    """

    optimizer: str = "sgd"
    learning_rate: Positive | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", server_learning_rate(self.optimizer))


@section
@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A transform of the (already private) local gradient; being post-processing, it costs no privacy."""

    local: LocalTraining = LocalTraining()
    server: ServerOptimizer = ServerOptimizer()
    weighting: Literal["auto", "examples", "uniform"] = "auto"
    weight_cap: Annotated[int, Field(ge=1)] | None = None

    @property
    def pull(self) -> float:
        """Strength of a pull back to the round's start: adds ``pull / 2 |weights - start|^2`` to the local loss."""
        return 0.0

    def transform(
        self,
        gradient: Float[Tensor, "clients params"],
        weights: Float[Tensor, "clients params"],
        start: Float[Tensor, " params"],
    ) -> Float[Tensor, "clients params"]:
        """What the local optimizer steps against; the fast trainers know the pull, and call what is more than that."""
        return gradient + self.pull * (weights - start) if self.pull else gradient
