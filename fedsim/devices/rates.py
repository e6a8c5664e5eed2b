"""What a table of speeds or bandwidths draws from, and what its entries offer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.seeding import Stream, generator

Floats = NDArray[np.float64]


class Trait(IntEnum):
    """What is drawn once for each client; a number is part of every result, so never change one."""

    DEVICE = 0
    COMPUTE = 1
    UPLOAD = 2
    DOWNLOAD = 3
    PHASE = 4


@dataclass(frozen=True)
class Traits:
    """Draws what is fixed for a run, for each of ``clients``; ``key`` is the setting that is drawn for."""

    seed: int
    clients: int
    key: str
    trait: Trait

    def normals(self) -> Floats:
        """A standard normal for each client ``[clients]``."""
        return self._generator(self.trait).standard_normal(self.clients)

    def uniforms(self) -> Floats:
        """A number in [0, 1) for each client ``[clients]``."""
        return self._generator(self.trait).random(self.clients)

    def devices(self, count: int) -> NDArray[np.int64]:
        """Which of ``count`` devices each client has ``[clients]``: the same for all traces of so many devices."""
        drawn = self._generator(Trait.DEVICE).random(self.clients)
        return (drawn * count).astype(np.int64)

    def _generator(self, trait: Trait) -> np.random.Generator:
        return generator(self.seed, Stream.DEVICES, 0, int(trait))


class Rates(Protocol):
    """What an entry of a table of speeds or bandwidths offers."""

    @property
    def kind(self) -> str:
        """Its name in the table."""

    def of_clients(self, traits: Traits) -> Floats:
        """Examples or bytes per second of each client ``[clients]``; raises ``BadInput``."""
