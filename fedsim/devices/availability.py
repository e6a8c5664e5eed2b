"""What an entry of the table of availabilities offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.devices.rates import Floats, Traits

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Moment:
    """When clients are asked: the simulated ``seconds``, and a number in [0, 1) of each client ``[all clients]``."""

    seconds: float
    uniforms: Floats


class Presence(Protocol):
    """Who is there when; made once for the clients of a run."""

    def __call__(self, clients: Ids, moment: Moment) -> Mask:
        """Which of ``clients`` are there ``[clients]``."""


class Availability(Protocol):
    """What an entry of the table of availabilities offers."""

    @property
    def kind(self) -> str:
        """Its name in the table."""

    @property
    def follows_clock(self) -> bool:
        """Whether it depends on the simulated time, and so on how long earlier rounds took."""

    def presence(self, traits: Traits) -> Presence:
        """Who is there when, with each client's traits; raises ``BadInput``."""
