"""Free riders (Lin et al. 2019, arXiv 1911.12560): they take the model and give nothing for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.attacks.base import Attack, Attackers
from fedsim.settings import NonNegative, section


@section
@dataclass(frozen=True, kw_only=True)
class FreeRider(Attack):
    """Attackers send zero, or to hide it noise of standard ``deviation``, whatever their records say."""

    kind: Literal["free_rider"] = "free_rider"
    deviation: NonNegative = 0.0

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """Zero or noise."""
        if self.deviation == 0:
            return torch.zeros_like(updates)
        return attackers.normals(updates.shape[1], updates.device) * self.deviation
