"""Asynchronous federated optimization (Xie et al. 2019, arXiv 1903.03934)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedsim.asynchronous.methods import StalenessChoice
from fedsim.asynchronous.staleness import PolynomialStaleness
from fedsim.settings import Count, section


@section
@dataclass(frozen=True, kw_only=True)
class FedAsync:
    """Every client that finishes makes a step: the model becomes (1 - alpha) of itself and alpha of the client's.

    Alpha is ``mixing`` times the weight of the update's ``staleness``.
    """

    kind: Literal["fedasync"] = "fedasync"
    concurrency: Count = 10
    mixing: Annotated[float, Field(gt=0, le=1)] = 0.6
    staleness: StalenessChoice = PolynomialStaleness()
    mixes: ClassVar[bool] = True
    buffer_size: ClassVar[int] = 1

    @property
    def factor(self) -> float:
        """The mixing."""
        return self.mixing
