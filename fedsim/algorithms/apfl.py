"""APFL (Deng et al. 2020, arXiv 2003.13461): each client mixes a model of its own with the global one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.params import Layout
from fedsim.settings import section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class Apfl(Algorithm):
    """Federated averaging; each client uses ``alpha v + (1 - alpha) w``, of a model v of its own and the global w.

    v takes a step for every step of w's local training, against the gradient of the mixture on the same batch. With
    ``adaptive``, so does alpha in the first step of a round, at ``local.learning_rate``, within 0 and 1. A client's
    state ``[params + 1]`` is how far v and alpha are from the run's initial model and from ``alpha``.
    """

    name: Literal["apfl"] = "apfl"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    adaptive: bool = True

    personalises: ClassVar[bool] = True
    reports_follow_state: ClassVar[bool] = False
    keeps: ClassVar[str | None] = "a model and a mixing weight of its own, trained without noise"

    def state_size(self, layout: Layout) -> int:
        """The client's own model, and its alpha."""
        return layout.size + 1

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """Train both models; w, which is reported, depends neither on v nor on alpha."""
        from fedsim.training.mixture import Mixture, train_mixed  # training imports the algorithms

        rate = self.local.learning_rate if self.adaptive else 0.0
        starts = given.params.repeat(len(work.clients), 1), given.initial + given.state[:, :-1]
        mixture = Mixture(self.alpha + given.state[:, -1:], rate)
        trained, own, alpha = train_mixed(trainer, self.local, starts, mixture, work)
        return replace(trained, state=torch.cat([own - given.initial, alpha - self.alpha], dim=1))

    def personal_models(self, trainer: Trainer, given: Given, work: Work) -> Float[Tensor, "clients params"]:
        """The mixtures with the current global model."""
        alpha, own = self.alpha + given.state[:, -1:], given.initial + given.state[:, :-1]
        return alpha * own + (1 - alpha) * given.params
