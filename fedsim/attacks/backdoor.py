"""A backdoor by poisoned records (BadNets: Gu et al. 2017, arXiv 1708.06733)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedsim.attacks.base import Attack, Numbers
from fedsim.attacks.triggers import Trigger
from fedsim.data.dataset import Dataset, Examples
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Backdoor(Attack):
    """Attackers train on images that bear a trigger and the target's label, and send what comes of it.

    Success is the share of the triggered test records of other classes that the model calls the target.
    """

    kind: Literal["backdoor"] = "backdoor"
    trigger: Trigger = Trigger()
    for_classes: ClassVar[bool] = True
    tampers: ClassVar[bool] = False

    def check(self, data: Dataset) -> None:
        """Raise ``BadInput`` for data that the trigger does not fit on."""
        super().check(data)
        self.trigger.check(data)

    def poison(self, data: Dataset, records: Numbers, rng: np.random.Generator) -> Examples:
        """See ``Trigger``."""
        return self.trigger.poison(data, records, rng)

    def probe(self, data: Dataset) -> Examples | None:
        """See ``Trigger``."""
        return self.trigger.probe(data)
