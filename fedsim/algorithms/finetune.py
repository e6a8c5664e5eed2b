"""Fine-tuning: one global model by federated averaging, from which each client makes its own by a little training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.personal import personal_training, train_apart
from fedsim.algorithms.problem import LocalProblem
from fedsim.settings import Count, Positive, section

if TYPE_CHECKING:
    from fedsim.training.trainer import Trainer
    from fedsim.training.work import Work


@section
@dataclass(frozen=True, kw_only=True)
class FineTune(Algorithm):
    """Federated averaging; where it is evaluated, each client trains the model on its own records and keeps the result.

    It does so for ``personal_epochs`` at ``personal_learning_rate`` (left out: ``local.learning_rate``). Nothing is
    remembered (Yu et al. 2020, arXiv 2002.04758).
    """

    name: Literal["finetune"] = "finetune"
    personal_epochs: Count = 1
    personal_learning_rate: Positive | None = None

    personalises: ClassVar[bool] = True

    def personal_models(self, trainer: Trainer, given: Given, work: Work) -> Float[Tensor, "clients params"]:
        """The global model after each client's own training."""
        local = personal_training(self.local, self.personal_epochs, self.personal_learning_rate)
        starts = given.params.repeat(len(work.clients), 1)
        return starts + train_apart(trainer, local, LocalProblem(starts), work)
