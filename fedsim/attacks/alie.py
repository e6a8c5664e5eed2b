"""A Little Is Enough (Baruch et al. 2019, arXiv 1902.06156): outliers that hide among the honest."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.attacks.base import Attack, Attackers
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Alie(Attack):
    """All attackers send the mean of their honest updates plus ``z`` of their standard deviations (A Little Is Enough).

    Left out, z is the paper's: the furthest at which enough honest clients are expected to lie further out to make the
    attackers look like a majority (algorithm 3). It is small where attackers are few: 0.16 for 4 of 20.
    """

    kind: Literal["alie"] = "alie"
    z: Annotated[float, Field(allow_inf_nan=False)] | None = None
    colludes: ClassVar[bool] = True

    def tampered(
        self, updates: Float[Tensor, "attackers report"], attackers: Attackers
    ) -> Float[Tensor, "attackers report"]:
        """One update for all, estimated over the attackers; one that is alone estimates no deviation."""
        z = furthest(attackers.cohort, len(updates)) if self.z is None else self.z
        values = updates.double()
        sent = values.mean(0) + z * values.std(0, correction=0)
        return sent.to(updates.dtype).expand_as(updates)


def furthest(clients: int, attackers: int) -> float:
    """The paper's z of so many clients in all; 0 where no honest client could be further out than that.

    With s = floor(n / 2 + 1) - m supporters needed among n - m honest clients, the normal quantile of
    (n - m - s) / (n - m). Attackers that are a majority already need none, and count as in need of one.
    """
    honest = clients - attackers
    needed = max(1, clients // 2 + 1 - attackers)
    return NormalDist().inv_cdf((honest - needed) / honest) if honest > needed else 0.0
