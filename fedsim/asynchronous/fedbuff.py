"""Buffered asynchronous aggregation (Nguyen et al. 2022, arXiv 2106.06639)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fedsim.asynchronous.methods import StalenessChoice
from fedsim.asynchronous.staleness import PolynomialStaleness
from fedsim.settings import Count, section


@section
@dataclass(frozen=True, kw_only=True)
class FedBuff:
    """``concurrency`` clients work at a time; each that finishes is replaced, and ``buffer_size`` updates make a step.

    Late updates are weighted by their ``staleness``; their number, not their weight, divides the sum.
    """

    kind: Literal["fedbuff"] = "fedbuff"
    buffer_size: Count = 10
    concurrency: Count = 100
    staleness: StalenessChoice = PolynomialStaleness()
    mixes: ClassVar[bool] = False
    factor: ClassVar[float] = 1.0
