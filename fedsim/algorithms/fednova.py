"""FedNova (Wang et al. 2020, arXiv 2007.07481): updates of clients with different numbers of steps, normalised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.effective import effective_steps, needs_sgd
from fedsim.algorithms.problem import LocalProblem
from fedsim.params import Layout
from fedsim.settings import NonNegative, section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class FedNova(Algorithm):
    """Local steps, with FedProx' pull of ``mu``; each update is divided by its effective number of steps.

    The mean of that is multiplied by the mean of these numbers, so that clients with equally many do as in FedAvg.
    """

    name: Literal["fednova"] = "fednova"
    mu: NonNegative = 0.0
    also_reports: ClassVar[str | None] = "its effective number of local steps"
    also_reports_made_of: ClassVar[str] = (
        "it follows from the settings, and where these say no more than epochs from how many records it holds (n_i), "
        "which is treated as public"
    )
    refuses_client_level: ClassVar[str | None] = (
        "how many steps a client takes follows how many records it holds, and is too large a number to be clipped "
        'together with the update; use "fedavg" and set algorithm.local.steps, so that all take equally many'
    )

    def objections(self, client_level: bool) -> Iterator[str]:
        """Optimizers whose effective number of steps depends on the gradients."""
        yield from needs_sgd(self, "its steps have no effective number that is known before")

    def report_size(self, layout: Layout) -> int:
        """The normalised update, and the effective number of steps."""
        return layout.size + 1

    def problem(self, given: Given) -> LocalProblem:
        """The loss and a pull of ``mu`` to the round's start."""
        return LocalProblem(given.params, pull=self.mu)

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """Local steps, normalised."""
        trained = trainer.train(self.local, self.problem(given), work)
        steps = effective_steps(self.local, self.mu, work.steps).to(trained.updates)[:, None]
        return replace(trained, updates=torch.cat([trained.updates / steps, steps], dim=1))

    def conclude(self, aggregate: Tensor, params: Tensor, memory: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The mean normalised update times the mean effective number of steps."""
        return aggregate[:-1] * aggregate[-1], memory
