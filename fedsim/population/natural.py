"""The data's own owners as clients: writers, roles, hospitals, patients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedsim.data.dataset import Examples
from fedsim.errors import BadInput
from fedsim.population.population import Indices, Population
from fedsim.settings import Count, section


@section
@dataclass(frozen=True)
class Natural:
    """One client for each owner that the data names (a writer, a hospital), as in LEAF (Caldas et al. 2018).

    Source: arXiv 1812.01097. Owners with fewer than ``min_size`` training records are left out, and counted. With
    ``population.clients`` so many owners are drawn at random, else all of them take part.
    """

    kind: Literal["natural"] = "natural"
    min_size: Count = 1

    def count(self, examples: Examples) -> int:
        """How many owners have enough records; raises ``BadInput`` where the data has no owners."""
        return len(self._able(_owners(examples)))

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """The records of each owner, in the order of the owners; raises ``BadInput`` where there are too few."""
        owners = _owners(examples)
        able = self._able(owners)
        if not 0 < clients <= len(able):
            raise BadInput(
                f"population.clients = {clients}: the data has {len(able)} owners with at least {self.min_size} "
                "training record(s). Use at most so many, or leave it out to take them all."
            )
        number = np.full(int(owners.max()) + 1, -1, np.int64)
        number[np.sort(rng.choice(able, clients, replace=False))] = np.arange(clients)
        held = np.flatnonzero(number[owners] >= 0)
        population = Population.from_owners(number[owners[held]], clients)
        return Population(held[population.indices], population.offsets)

    def _able(self, owners: Indices) -> Indices:
        return np.flatnonzero(np.bincount(owners) >= self.min_size).astype(np.int64)


def _owners(examples: Examples) -> Indices:
    if examples.owners is None:
        raise BadInput(
            'population.partition.kind = "natural": this data does not say who owns its records. '
            "Use another partition, or a source with owners (writer, role, hospital, patient)."
        )
    return examples.owners
