"""Gaussian updates (Blanchard et al. 2017, arXiv 1703.02757)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.attacks.base import Attack, Attackers
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True, kw_only=True)
class Gaussian(Attack):
    """Attackers send noise of standard ``deviation`` in every value (200 in the paper) in place of an update."""

    kind: Literal["gaussian"] = "gaussian"
    deviation: Positive = 200.0

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """Noise alone."""
        return attackers.normals(updates.shape[1], updates.device) * self.deviation
