"""How much less an update counts, the more the model has moved on since its client got it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.settings import NonNegative, Positive, section

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Staleness(Protocol):
    """What an entry of the table of stalenesses offers; weights are in (0, 1], and 1 for a fresh update."""

    @property
    def kind(self) -> str:
        """Its name in the table."""

    def weights(self, staleness: Counts) -> Floats:
        """The weight of updates ``[n]`` during whose training the server made ``staleness`` steps ``[n]``."""


@section
@dataclass(frozen=True)
class ConstantStaleness:
    """Every update counts the same, however late it is."""

    kind: Literal["constant"] = "constant"

    def weights(self, staleness: Counts) -> Floats:
        """1 for each."""
        return np.ones(len(staleness))


@section
@dataclass(frozen=True)
class HingeStaleness:
    """Updates count whole up to a staleness of ``b``, then ``1 / (1 + a (staleness - b))``."""

    kind: Literal["hinge"] = "hinge"
    a: Positive = 10.0
    b: NonNegative = 4.0

    def weights(self, staleness: Counts) -> Floats:
        """Xie et al. 2019, section 5.2."""
        return np.asarray(1 / (1 + self.a * np.maximum(staleness - self.b, 0)), np.float64)


@section
@dataclass(frozen=True)
class PolynomialStaleness:
    """Updates count ``(1 + staleness)^-a``; FedBuff has ``a`` = 0.5."""

    kind: Literal["polynomial"] = "polynomial"
    a: Annotated[float, Field(ge=0, le=100)] = 0.5

    def weights(self, staleness: Counts) -> Floats:
        """Xie et al. 2019, section 5.2; Nguyen et al. 2022, appendix."""
        return np.asarray((1.0 + staleness) ** -self.a, np.float64)


STALENESS = {"constant": ConstantStaleness, "hinge": HingeStaleness, "polynomial": PolynomialStaleness}
