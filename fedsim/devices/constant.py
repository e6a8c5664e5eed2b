"""Devices that are all alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.devices.rates import Floats, Traits
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True)
class ConstantSpeed:
    """Every client trains on ``examples_per_second``."""

    kind: Literal["constant"] = "constant"
    examples_per_second: Positive = 100.0

    def of_clients(self, traits: Traits) -> Floats:
        """The same for each client ``[clients]``, in examples per second."""
        return np.full(traits.clients, self.examples_per_second)


@section
@dataclass(frozen=True)
class ConstantBandwidth:
    """Every client sends or receives ``bytes_per_second``."""

    kind: Literal["constant"] = "constant"
    bytes_per_second: Positive = 1e6

    def of_clients(self, traits: Traits) -> Floats:
        """The same for each client ``[clients]``, in bytes per second."""
        return np.full(traits.clients, self.bytes_per_second)
