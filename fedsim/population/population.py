"""Clients as index arrays: one array of record numbers and one of offsets, so a million clients are two arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Examples
from fedsim.errors import BadInput

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Population:
    """``indices[offsets[c]:offsets[c + 1]]`` are the training records of client c."""

    indices: Indices
    offsets: Indices

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def sizes(self) -> Indices:
        """Number of records of each client ``[clients]``."""
        return np.diff(self.offsets)

    def records(self, client: int) -> Indices:
        """Record numbers of one client."""
        return self.indices[self.offsets[client] : self.offsets[client + 1]]

    def dealt(self, clients: Indices, nodes: int) -> list[Indices]:
        """Clients for each of so many nodes, dealt out by size, so that all nodes have about as much to do."""
        by_size = clients[np.argsort(-self.sizes[clients], kind="stable")]
        return [np.sort(by_size[node::nodes]) for node in range(nodes)]

    def of_clients(self, chosen: NDArray[np.bool_]) -> Population:
        """Some of the clients ``[clients]``, in their order."""
        indices = self.indices[np.repeat(chosen, self.sizes)]
        return Population(indices, np.concatenate([[0], np.cumsum(self.sizes[chosen])]).astype(np.int64))

    def parted(self, apart: NDArray[np.bool_]) -> tuple[Population, Population]:
        """The same clients with their other records, and with those that are set ``apart`` ``[records held]``."""
        counts = np.concatenate([[0], np.cumsum(apart)])[self.offsets].astype(np.int64)
        return Population(self.indices[~apart], self.offsets - counts), Population(self.indices[apart], counts)

    def digest(self) -> str:
        """A fingerprint of who holds what; the ledger is kept for one population."""
        fingerprint = hashlib.sha256(self.indices.tobytes())
        fingerprint.update(self.offsets.tobytes())
        return fingerprint.hexdigest()[:16]

    @classmethod
    def from_owners(cls, owners: Indices, clients: int) -> Population:
        """The population in which record i belongs to client ``owners[i]``."""
        order = np.argsort(owners, kind="stable").astype(np.int64)
        sizes = np.bincount(owners, minlength=clients)
        return cls(order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


class Partition(Protocol):
    """What an entry of the table of partitions offers."""

    @property
    def kind(self) -> str:
        """Its name in the table."""

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Give each of the clients its records; raises ``BadInput`` if that cannot be done."""


def check_enough(records: int, clients: int, least: int, setting: str = "min_size") -> None:
    """Raise ``BadInput`` when every client cannot get as many records as ``setting`` asks for."""
    if clients * least > records:
        raise BadInput(
            f"population.clients = {clients} with at least {least} record(s) each needs {clients * least} "
            f"training records, but the data has {records}. Use fewer clients or a smaller {setting}."
        )
