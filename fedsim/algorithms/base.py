"""What every federated algorithm has: local training, a server optimizer, and what it does beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.aggregation.aggregator import Aggregator
from fedsim.aggregation.mean import Mean
from fedsim.aggregation.table import AGGREGATORS
from fedsim.algorithms.problem import LocalProblem
from fedsim.optimizers import server_learning_rate
from fedsim.params import Layout
from fedsim.schedules import SCHEDULES, Constant, Schedule
from fedsim.settings import Count, NonNegative, Positive, choice, section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work

    AggregationChoice = Aggregator
    ScheduleChoice = Schedule
else:
    AggregationChoice = choice("kind", AGGREGATORS)
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


@dataclass(frozen=True)
class Given:
    """What a block's clients have when a round begins.

    The model ``params`` ``[params]`` and the server's ``memory`` ``[memory]``, both as of this round; each client's own
    ``state`` ``[clients, state]``, zero before its first round; and the model that the run began with, ``initial``.
    ``layout`` says where the model's parameters lie.
    """

    params: Tensor
    memory: Tensor
    state: Tensor
    initial: Tensor
    layout: Layout


@section
@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What clients minimise, what they report and remember, and what the server makes of it.

    A client's report is its update with what else the algorithm sends behind it, one vector that is clipped and noised
    as a whole. Its state stays with the client; the server's memory is as public as the model.

    ``strategy`` is a Flower ``Strategy`` by import path, built with ``strategy_options``: it is shown every client's
    model, and what it makes of them becomes the model.
    """

    name: str
    local: LocalTraining = LocalTraining()
    server: ServerOptimizer = ServerOptimizer()
    aggregation: AggregationChoice = Mean()
    strategy: str | None = None
    strategy_options: dict[str, Any] = field(default_factory=dict)
    weighting: Literal["auto", "examples", "uniform"] = "auto"
    weight_cap: Annotated[int, Field(ge=1)] | None = None

    # Whether clients get the model at all.
    sends_model: ClassVar[bool] = True
    # Whether clients get the server's memory beside the model.
    sends_memory: ClassVar[bool] = False
    # What "auto" weights clients by where their sizes are not protected.
    natural_weighting: ClassVar[Literal["examples", "uniform"]] = "examples"
    # Whether clients take one step a round, whatever ``local`` says of epochs.
    one_step: ClassVar[bool] = False
    # Why it cannot be had with [privacy.example] or [privacy.client], if it cannot.
    refuses_example_level: ClassVar[str | None] = None
    refuses_client_level: ClassVar[str | None] = None
    # Whether clients have models of their own beside the global one.
    personalises: ClassVar[bool] = False
    # What the global model is, where that is no model that anybody would use.
    global_is: ClassVar[str | None] = None
    # Whether what clients report depends on what they keep.
    reports_follow_state: ClassVar[bool] = True
    # In the words of the privacy statement: what clients report beside their update, what the server's memory is that
    # they get beside the model, and what each client keeps.
    also_reports: ClassVar[str | None] = None
    # Why DP-SGD's guarantee covers that.
    also_reports_made_of: ClassVar[str] = "made of noised gradients alone"
    also_sends: ClassVar[str | None] = None
    keeps: ClassVar[str | None] = None
    # Whether what each client keeps follows from the updates that it has sent.
    keeps_what_updates_tell: ClassVar[bool] = False

    @property
    def path_length(self) -> float:
        """How far a round's local steps lead where every gradient is 1: roughly so, and for all clients the same.

        What is reported as a gradient is multiplied by this, so that it is about as long as the update with which it is
        clipped. It must be public, so it does not follow the number of a client's records.
        """
        return (self.local.steps or self.local.epochs) * self.local.learning_rate

    def in_round(self, round_: int, rounds: int, losses: Sequence[float]) -> Self:
        """The same with the learning rate of a round, counted from 1, after evaluations with these ``losses``."""
        rate = self.local.learning_rate_at(round_, rounds, losses)
        return replace(self, local=replace(self.local, learning_rate=rate))

    def objections(self, client_level: bool) -> Iterator[str]:
        """What the algorithm's settings cannot be, a line each, also with regard to [privacy.client]."""
        return iter(())

    def check(self, layout: Layout) -> None:
        """Raises ``BadInput`` if the algorithm is not for this model."""

    @property
    def stacks(self) -> bool:
        """Whether the server needs every client's report by itself, and not only their sum."""
        return self.strategy is not None or self.aggregation.needs_every_update

    @property
    def has_state(self) -> bool:
        """Whether clients remember something from round to round."""
        return type(self).state_size is not Algorithm.state_size

    def report_size(self, layout: Layout) -> int:
        """How many values a client reports: the update's, and behind them the algorithm's own."""
        return layout.size

    def state_size(self, layout: Layout) -> int:
        """How many values a client keeps from round to round."""
        return 0

    def memory_size(self, layout: Layout) -> int:
        """How many values the server keeps from round to round beside the model."""
        return 0

    def problem(self, given: Given) -> LocalProblem:
        """What the clients minimise in this round."""
        return LocalProblem(given.params)

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """Train a block: its clients' reports ``[clients, report]``, and their state after it where they have one."""
        return trainer.train(self.local, self.problem(given), work)

    def conclude(
        self,
        aggregate: Float[Tensor, " report"],
        params: Float[Tensor, " params"],
        memory: Float[Tensor, " memory"],
        share: float,
    ) -> tuple[Float[Tensor, " params"], Float[Tensor, " memory"]]:
        """The model's update and the server's memory after a round, from the reports' (noised) mean.

        ``share`` of all clients took part: of those that answered, or as expected where who did is protected.
        """
        return aggregate, memory

    def whole(self, update: Float[Tensor, " shared"], layout: Layout) -> Float[Tensor, " params"]:
        """The update of all parameters: those that clients keep to themselves do not change in the global model."""
        return update

    def personal_models(self, trainer: Trainer, given: Given, work: Work) -> Float[Tensor, "clients params"]:
        """The model that each client would use itself; the global one, unless the algorithm personalises."""
        return given.params.expand(len(work.clients), -1)
