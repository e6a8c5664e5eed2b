"""FedDyn (Acar et al. 2021, arXiv 2111.04263): a regulariser that makes clients agree with the joint optimum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.effective import needs_uniform_weights
from fedsim.algorithms.problem import LocalProblem
from fedsim.params import Layout
from fedsim.settings import Positive, section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class FedDyn(Algorithm):
    """Local steps on the loss, minus the gradient it had when the client last stopped, and a pull to the start."""

    name: Literal["feddyn"] = "feddyn"
    alpha: Positive = 0.1
    natural_weighting: ClassVar[Literal["examples", "uniform"]] = "uniform"
    keeps: ClassVar[str | None] = "its loss' gradient where it last stopped, as its updates tell it"
    keeps_what_updates_tell: ClassVar[bool] = True

    def objections(self, client_level: bool) -> Iterator[str]:
        """Weights."""
        yield from needs_uniform_weights(self, "what the server remembers counts every client once")

    def state_size(self, layout: Layout) -> int:
        """The gradient of the client's loss where it last stopped."""
        return layout.size

    def memory_size(self, layout: Layout) -> int:
        """The mean of all clients' states."""
        return layout.size

    def problem(self, given: Given) -> LocalProblem:
        """The loss, minus its gradient where the client last stopped, and ``alpha / 2`` times the squared distance."""
        return LocalProblem(given.params, pull=self.alpha, linear=-given.state)

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """Local steps; the gradient at their end follows from the update alone."""
        trained = trainer.train(self.local, self.problem(given), work)
        return replace(trained, state=given.state - self.alpha * trained.updates)

    def conclude(self, aggregate: Tensor, params: Tensor, memory: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The mean update, corrected by the mean of all clients' states, of which ``share`` changed.

        Where nobody took part there is no mean to correct, and the model stays where it is.
        """
        if share == 0:
            return aggregate, memory
        memory = memory - self.alpha * share * aggregate
        return aggregate - memory / self.alpha, memory
