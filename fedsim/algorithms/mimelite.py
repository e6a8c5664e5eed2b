"""MimeLite (Karimireddy et al. 2021, arXiv 2008.03606): clients step with the server's momentum."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.effective import needs_public_steps, needs_sgd
from fedsim.algorithms.problem import LocalProblem
from fedsim.params import Layout
from fedsim.settings import section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class MimeLite(Algorithm):
    """Local SGD steps along ``momentum`` of the server's gradient and the rest of their own.

    The server's is a running mean of the clients' gradients of all their records at the round's model.
    """

    name: Literal["mimelite"] = "mimelite"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    sends_memory: ClassVar[bool] = True
    also_reports: ClassVar[str | None] = "the gradient of all its records at the round's model"
    also_sends: ClassVar[str | None] = "the momentum"
    refuses_example_level: ClassVar[str | None] = (
        "its clients report the gradient of all their records, which is none of the noised gradients of DP-SGD; use "
        '"fedavg" with algorithm.server.options = { momentum = 0.9 }'
    )

    def objections(self, client_level: bool) -> Iterator[str]:
        """Local optimizers with a state of their own, and gradients of unknown length."""
        yield from needs_sgd(self, "its clients step with the server's momentum alone")
        own = self.local.options.get("momentum")
        if own:
            yield (
                f"algorithm.local.options.momentum = {own}: the clients of mimelite step with the server's momentum "
                "alone; leave it out"
            )
        yield from needs_public_steps(self, client_level, "the gradient at the round's model")

    def report_size(self, layout: Layout) -> int:
        """The update, and the gradient of all records at the round's model."""
        return 2 * layout.size

    def memory_size(self, layout: Layout) -> int:
        """The momentum."""
        return layout.size

    def problem(self, given: Given) -> LocalProblem:
        """The loss and the momentum; both are meant to be stepped along at ``1 - momentum`` times the rate."""
        return LocalProblem(given.params, linear=self.momentum / (1 - self.momentum) * given.memory)

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """The gradient at the round's model, and local steps."""
        gradients = trainer.full_gradients(self.local, given.params, work)
        local = replace(self.local, learning_rate=(1 - self.momentum) * self.local.learning_rate)
        trained = trainer.train(local, self.problem(given), work)
        return replace(trained, updates=torch.cat([trained.updates, self.path_length * gradients], dim=1))

    def conclude(self, aggregate: Tensor, params: Tensor, memory: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """The update, and the momentum with the gradient's mean; where nobody took part it stays as it is."""
        update, gradient = aggregate.split(len(params))
        if share == 0:
            return update, memory
        return update, self.momentum * memory + (1 - self.momentum) / self.path_length * gradient
