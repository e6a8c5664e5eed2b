"""Sign-flipped updates: attackers send the opposite of what they learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from fedsim.attacks.base import Attack, Attackers
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True, kw_only=True)
class SignFlip(Attack):
    """Attackers send their update times -``scale``; with f of n clients the mean turns round at (n - f) / f.

    The "omniscient" attack of Blanchard et al. 2017 (arXiv 1703.02757) by each attacker's own update.
    """

    kind: Literal["sign_flip"] = "sign_flip"
    scale: Positive = 1.0

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """The updates times -``scale``."""
        return updates * -self.scale
