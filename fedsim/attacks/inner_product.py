"""Inner-product manipulation (Xie et al. 2019, arXiv 1903.03936)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.attacks.base import Attack, Attackers
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True, kw_only=True)
class InnerProduct(Attack):
    """All attackers send -``epsilon`` times the mean of their honest updates.

    A small epsilon hides among the honest updates of robust rules; one above (n - f) / f turns the plain mean of n
    clients, f of them hostile, round.
    """

    kind: Literal["inner_product"] = "inner_product"
    epsilon: Positive = 0.5
    colludes: ClassVar[bool] = True

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """One update for all."""
        return (-self.epsilon * updates.double().mean(0)).to(updates.dtype).expand_as(updates)
