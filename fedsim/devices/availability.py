"""What an entry of the table of availabilities offers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.devices.rates import Floats, Traits
from fedsim.seeding import Stream, generator

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Moment:
    """When clients are asked: the simulated ``seconds``, and in which round for the ``attempt``-th time."""

    seconds: float
    draw_seed: int
    clients: int
    round: int
    attempt: int = 0

    @property
    def uniforms(self) -> Floats:
        """A number in [0, 1) of each client ``[all clients]``, the same for the whole attempt."""
        return _uniforms(self.draw_seed, self.clients, self.round, self.attempt)


@lru_cache(maxsize=1)  # within a round the same ones are asked for again and again
def _uniforms(draw_seed: int, clients: int, round_: int, attempt: int) -> Floats:
    return generator(draw_seed, Stream.DEVICES, round_, 1 + attempt).random(clients)


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
