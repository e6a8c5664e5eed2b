"""Model replacement (Bagdasaryan et al. 2020, arXiv 1807.00459): a backdoor whose updates are scaled up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fedsim.attacks.base import Attack, Attackers, Numbers
from fedsim.attacks.triggers import Trigger
from fedsim.data.dataset import Dataset, Examples
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True, kw_only=True)
class ModelReplacement(Attack):
    """A backdoor, with updates times ``boost``, so that the mean over the cohort is the attackers' own model.

    Left out, the boost is the expected number of clients in a round (the paper's n / eta) over that of attackers.
    Success is that of ``backdoor``.
    """

    kind: Literal["model_replacement"] = "model_replacement"
    trigger: Trigger = Trigger()
    boost: Positive | None = None
    for_classes: ClassVar[bool] = True

    def check(self, data: Dataset) -> None:
        """Raise ``BadInput`` for data that the trigger does not fit on."""
        super().check(data)
        self.trigger.check(data)

    def poison(self, data: Dataset, records: Numbers, rng: np.random.Generator) -> Examples:
        """See ``Trigger``."""
        return self.trigger.poison(data, records, rng)

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """The updates times the boost."""
        boost = min(float(attackers.cohort), 1 / self.fraction) if self.boost is None else self.boost
        return updates * boost

    def probe(self, data: Dataset) -> Examples | None:
        """See ``Trigger``."""
        return self.trigger.probe(data)
