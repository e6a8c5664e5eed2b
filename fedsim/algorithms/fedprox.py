"""FedProx (Li et al. 2020, arXiv 1812.06127): a proximal term keeps clients near the round's start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedsim.algorithms.base import Algorithm, Given
from fedsim.algorithms.problem import LocalProblem
from fedsim.settings import NonNegative, section


@section
@dataclass(frozen=True, kw_only=True)
class FedProx(Algorithm):
    """Local steps on the loss plus ``mu / 2`` times the squared distance from the round's start."""

    name: Literal["fedprox"] = "fedprox"
    mu: NonNegative = 0.01

    def problem(self, given: Given) -> LocalProblem:
        """The loss and a pull of ``mu`` to the round's start."""
        return LocalProblem(given.params, pull=self.mu)
