"""Federated averaging (McMahan et al. 2017, arXiv 1602.05629)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsim.algorithms.base import Algorithm
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class FedAvg(Algorithm):
    """Plain local steps."""

    name: Literal["fedavg"] = "fedavg"
