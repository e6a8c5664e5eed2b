"""NaN senders: broken or hostile clients whose updates are no numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.attacks.base import Attack, Attackers
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Nan(Attack):
    """Attackers send NaN in every value; one that were summed as it is would end the training."""

    kind: Literal["nan"] = "nan"

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """NaN."""
        return torch.full_like(updates, torch.nan)
