"""q-FedAvg (q-FFL, Li et al. 2020, arXiv 1905.10497): clients with a larger loss count more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.effective import needs_uniform_weights
from fedsim.params import Layout
from fedsim.settings import NonNegative, section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work

# Added to losses, as the authors do, since a loss of 0 has no power below 1.
TINY = 1e-10


@section
@dataclass(frozen=True, kw_only=True)
class QFedAvg(Algorithm):
    """Local steps; each update counts as the client's loss at the round's model to the power of ``q``.

    The step's length follows an upper bound of the curvature, whose Lipschitz constant is 1 / the learning rate.
    """

    name: Literal["qfedavg"] = "qfedavg"
    q: NonNegative = 0.1
    natural_weighting: ClassVar[Literal["examples", "uniform"]] = "uniform"
    also_reports: ClassVar[str | None] = "what follows from its loss at the round's model and its update's length"
    refuses_example_level: ClassVar[str | None] = (
        "its clients report their loss at the round's model, which nothing noises"
    )
    refuses_client_level: ClassVar[str | None] = (
        "the server divides by a sum of what follows from the clients' losses, which noise can bring to zero"
    )

    def objections(self, client_level: bool) -> Iterator[str]:
        """Weights."""
        yield from needs_uniform_weights(self, "its clients are weighted by their losses")

    def report_size(self, layout: Layout) -> int:
        """The update times the loss' power, and the bound of the curvature, both over the Lipschitz constant."""
        return layout.size + 1

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """The loss at the round's model, and local steps."""
        losses = trainer.mean_losses(given.params, work) + TINY
        trained = trainer.train(self.local, self.problem(given), work)
        squares = torch.linalg.vector_norm(trained.updates, dim=1, dtype=torch.float64) ** 2
        power = losses**self.q
        bound = power + self.q * losses ** (self.q - 1) * squares / self.local.learning_rate
        report = torch.cat([power[:, None] * trained.updates, bound[:, None]], dim=1)
        return replace(trained, updates=report.to(trained.updates))

    def conclude(self, aggregate: Tensor, params: Tensor, memory: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The sum of the weighted updates over the sum of the bounds; nothing where nobody answered."""
        return aggregate[:-1] / (aggregate[-1] if aggregate[-1] else 1.0), memory
