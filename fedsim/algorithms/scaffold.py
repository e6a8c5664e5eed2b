"""SCAFFOLD (Karimireddy et al. 2020, arXiv 1910.06378), option II: control variates against client drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.effective import effective_steps, needs_public_steps, needs_sgd, needs_uniform_weights
from fedsim.algorithms.problem import LocalProblem
from fedsim.params import Layout
from fedsim.settings import section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class Scaffold(Algorithm):
    """Local steps corrected by how a client's mean gradient differs from all clients'.

    A client's control variate is the mean gradient of its last round, as its update tells it: what DP-SGD noised. With
    momentum the update is divided by the effective number of steps (Wang et al. 2020, arXiv 2007.07481) in their place.
    """

    name: Literal["scaffold"] = "scaffold"
    natural_weighting: ClassVar[Literal["examples", "uniform"]] = "uniform"
    sends_memory: ClassVar[bool] = True
    also_reports: ClassVar[str | None] = "how its control variate changed"
    also_sends: ClassVar[str | None] = "the mean of the control variates"
    keeps: ClassVar[str | None] = "a control variate, the mean gradient of its last round"
    keeps_what_updates_tell: ClassVar[bool] = True

    def objections(self, client_level: bool) -> Iterator[str]:
        """Optimizers whose update tells no gradient, weights, and control variates of unknown length."""
        yield from needs_sgd(self, "a control variate is the gradient that an update of SGD tells")
        yield from needs_uniform_weights(self, "the mean of the control variates counts every client once")
        yield from needs_public_steps(self, client_level, "the control variate's change")

    def report_size(self, layout: Layout) -> int:
        """The update, and how the control variate changed."""
        return 2 * layout.size

    def state_size(self, layout: Layout) -> int:
        """The control variate."""
        return layout.size

    def memory_size(self, layout: Layout) -> int:
        """The mean of all clients' control variates."""
        return layout.size

    def problem(self, given: Given) -> LocalProblem:
        """The loss, and in every step the difference between the mean control variate and the client's."""
        return LocalProblem(given.params, linear=given.memory - given.state)

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """Local steps; the control variates follow from the updates alone."""
        trained = trainer.train(self.local, self.problem(given), work)
        path = self.local.learning_rate * effective_steps(self.local, 0.0, work.steps).to(trained.updates)
        change = -trained.updates / path[:, None] - given.memory
        report = torch.cat([trained.updates, self.path_length * change], dim=1)
        return replace(trained, updates=report, state=given.state + change)

    def conclude(self, aggregate: Tensor, params: Tensor, memory: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The update, and the mean control variate as ``share`` of all clients changed it."""
        update, change = aggregate.split(len(params))
        return update, memory + share / self.path_length * change
