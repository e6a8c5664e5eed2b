"""Devices of which a few are very slow: a heavy tail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedsim.devices.rates import Floats, Traits
from fedsim.settings import Positive, section

# Beyond this a client could be e^200 times as fast as another, and times are no longer numbers.
Sigma = Annotated[float, Field(ge=0, le=20)]


@section
@dataclass(frozen=True)
class LogNormalSpeed:
    """Rates are log-normal: the ``median`` is in examples per second, ``sigma`` the deviation of the logarithm."""

    kind: Literal["lognormal"] = "lognormal"
    median: Positive = 100.0
    sigma: Sigma = 1.0

    def of_clients(self, traits: Traits) -> Floats:
        """Drawn for each client ``[clients]``, in examples per second."""
        return lognormal(self.median, self.sigma, traits)


@section
@dataclass(frozen=True)
class LogNormalBandwidth:
    """Rates are log-normal: the ``median`` is in bytes per second, ``sigma`` the deviation of the logarithm."""

    kind: Literal["lognormal"] = "lognormal"
    median: Positive = 1e6
    sigma: Sigma = 1.0

    def of_clients(self, traits: Traits) -> Floats:
        """Drawn for each client ``[clients]``, in bytes per second."""
        return lognormal(self.median, self.sigma, traits)


def lognormal(median: float, sigma: float, traits: Traits) -> Floats:
    """``median * exp(sigma * normal)`` for each client ``[clients]``."""
    return median * np.exp(sigma * traits.normals())
