"""What personalised algorithms share: training for the client itself alone, and parameters that stay with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given, LocalTraining
from fedsim.algorithms.problem import LocalProblem
from fedsim.params import Layout
from fedsim.settings import section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


def personal_training(local: LocalTraining, epochs: int | None, learning_rate: float | None) -> LocalTraining:
    """``local`` with other ``epochs`` and another learning rate, where they are given."""
    steps = local.steps if epochs is None else None
    return replace(
        local, epochs=epochs or local.epochs, steps=steps, learning_rate=learning_rate or local.learning_rate
    )


def train_apart(
    trainer: Trainer, local: LocalTraining, problem: LocalProblem, work: Work
) -> Float[Tensor, "clients params"]:
    """Train the clients for themselves alone: their updates, in the order of ``work``.

    Nothing of it is released, so it has no noise even where ``work`` has; its batches and dropout are words of its own.
    """
    assert work.again is not None
    own = work.again(local)
    places = np.argsort(work.clients)
    rows = torch.from_numpy(places[np.searchsorted(work.clients, own.clients, sorter=places)]).to(problem.start.device)
    updates = trainer.train(local, problem.rows(rows), own).updates
    return torch.empty_like(updates).index_copy_(0, rows, updates)


@section
@dataclass(frozen=True, kw_only=True)
class PrivateParameters(Algorithm):
    """Federated averaging of some of the parameters; the others are each client's own and never leave it.

    A client's state is how far its own parameters ``[private]`` are from those that the run began with. Its report has
    no place for them, and the global model keeps those that the run began with.
    """

    personalises: ClassVar[bool] = True
    global_is: ClassVar[str | None] = "the shared parameters beside private ones that nobody trained"
    keeps: ClassVar[str | None] = "parameters of its own"

    @abstractmethod
    def private(self, layout: Layout) -> Collection[str]:
        """Names of the parameters that stay with the clients; raises ``BadInput``."""

    def check(self, layout: Layout) -> None:
        """Raises ``BadInput`` if there are none of them, or none left to share."""
        self.private(layout)

    def report_size(self, layout: Layout) -> int:
        """The shared parameters."""
        return layout.size - self.state_size(layout)

    def state_size(self, layout: Layout) -> int:
        """The private parameters."""
        return int(layout.mask(self.private(layout)).sum())

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """Train all parameters together, with DP-SGD's noise on all of them, and report the shared ones."""
        own, starts = self._own(given), self.personal_models(trainer, given, work)
        trained = trainer.train(self.local, LocalProblem(starts), work)
        return replace(trained, updates=trained.updates[:, ~own], state=given.state + trained.updates[:, own])

    def whole(self, update: Float[Tensor, " shared"], layout: Layout) -> Float[Tensor, " params"]:
        """The shared parameters' update, and no change of the private ones."""
        shared = ~layout.mask(self.private(layout)).to(update.device)
        return update.new_zeros(layout.size).masked_scatter_(shared, update)

    def personal_models(self, trainer: Trainer, given: Given, work: Work) -> Float[Tensor, "clients params"]:
        """The global model with each client's own parameters in their places."""
        own, models = self._own(given), given.params.repeat(len(work.clients), 1)
        models[:, own] = given.initial[own] + given.state
        return models

    def _own(self, given: Given) -> Tensor:
        return given.layout.mask(self.private(given.layout)).to(given.params.device)
