"""FedSGD (McMahan et al. 2017, arXiv 1602.05629): one gradient of all records a round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from fedsim.algorithms.base import Algorithm, Given
from fedsim.settings import section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trained, Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class FedSgd(Algorithm):
    """One local step a round on all of a client's records (with [privacy.example] on a Poisson sample of them)."""

    name: Literal["fedsgd"] = "fedsgd"
    one_step: ClassVar[bool] = True

    def objections(self, client_level: bool) -> Iterator[str]:
        """More than one step."""
        for key, wanted in (("epochs", self.local.epochs), ("steps", self.local.steps)):
            if wanted not in (None, 1):
                yield f'algorithm.local.{key} = {wanted}: "fedsgd" takes one step a round; use "fedavg" for more'

    def train(self, trainer: Trainer, given: Given, work: Work) -> Trained:
        """One step on everything, or on what the accounted sampling drew."""
        return trainer.train(self.local, self.problem(given), work.whole() if work.noise is None else work)
