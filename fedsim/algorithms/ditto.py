"""Ditto (Li et al. 2021, arXiv 2012.04221): beside the global model each client's own, pulled towards it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.personal import personal_training, train_apart
from fedsim.algorithms.problem import LocalProblem
from fedsim.params import Layout
from fedsim.settings import Count, NonNegative, Positive, section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class Ditto(Algorithm):
    """Federated averaging; beside it each client trains a model of its own on its loss plus ``lam / 2 |v - w|^2``.

    w is the global model at the round's start, and v the client's own, which is its state ``[params]``: as how far it
    is from the model that the run began with. v trains as w does, but for ``personal_epochs`` at a constant
    ``personal_learning_rate`` where these are given.
    """

    name: Literal["ditto"] = "ditto"
    lam: NonNegative = 0.1
    personal_epochs: Count | None = None
    personal_learning_rate: Positive | None = None

    personalises: ClassVar[bool] = True
    reports_follow_state: ClassVar[bool] = False
    keeps: ClassVar[str | None] = "a model of its own, trained without noise"

    def state_size(self, layout: Layout) -> int:
        """The client's own model."""
        return layout.size

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """Train the global model, which is reported, and then the clients' own, of which it knows nothing."""
        trained = super().train(trainer, given, work)
        reports = trained.updates.clone()  # the trainer may use their memory again
        local = personal_training(self.local, self.personal_epochs, self.personal_learning_rate)
        problem = LocalProblem(given.initial + given.state, pull=self.lam, anchor=given.params)
        state = given.state + train_apart(trainer, local, problem, work)
        return replace(trained, updates=reports, state=state)

    def personal_models(self, trainer: Trainer, given: Given, work: Work) -> Float[Tensor, "clients params"]:
        """The clients' own models."""
        return given.initial + given.state
