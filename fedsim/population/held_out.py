"""What is kept out of training: a part of every client's records, one fold of them, or whole clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.errors import BadInput
from fedsim.population.population import Indices, Population
from fedsim.settings import section

Keys = NDArray[np.float64]


@section
@dataclass(frozen=True)
class SourceTest:
    """The test records that the data source itself holds out."""

    kind: Literal["source"] = "source"


@section
@dataclass(frozen=True)
class PerClient:
    """Every client holds back a ``fraction`` of its own records, at least one if it has two; they are never trained on.

    A client with a single record trains on it and is not tested.
    """

    kind: Literal["per_client"] = "per_client"
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2


class TestData(Protocol):
    """What an entry of the table of test data offers."""

    @property
    def kind(self) -> str:
        """Its name in the table."""


TEST_DATA = {
    "source": SourceTest,
    "per_client": PerClient,
}


def hold_back(population: Population, fraction: float, keys: Keys) -> tuple[Population, Population]:
    """What the clients train on, and what they hold back: the ``fraction`` of their records with the least keys.

    ``keys`` are random numbers, one for each record of the data ``[records]``.
    """
    sizes = population.sizes
    held = np.clip(np.floor(fraction * sizes + 0.5).astype(np.int64), 1, np.maximum(sizes - 1, 0))
    return population.parted(_ranks(population, keys) < np.repeat(held, sizes))


def hold_back_fold(population: Population, fold: int, folds: int, keys: Keys) -> tuple[Population, Population]:
    """What the clients train on, and the ``fold`` (1 to ``folds``) of their records that they hold back in turn.

    A client's folds differ by one record at most, and which of them are larger differs from client to client. A single
    record is always trained on.
    """
    sizes = population.sizes
    number = (_ranks(population, keys) + np.repeat(np.arange(len(population)), sizes)) % folds
    return population.parted((number == fold - 1) & np.repeat(sizes > 1, sizes))


def _ranks(population: Population, keys: Keys) -> Indices:
    """The rank of each record's key among those of its client ``[records held]``, in the order of ``indices``."""
    owners = np.repeat(np.arange(len(population)), population.sizes)
    order = np.lexsort((keys[population.indices], owners))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(population.offsets[:-1], population.sizes)
    return ranks


def set_apart(population: Population, share: float, rng: np.random.Generator) -> tuple[Population, Population]:
    """The clients that train, and a ``share`` of all (at least one) that never do; both in their old order."""
    clients = len(population)
    unseen = max(1, round(share * clients))
    if unseen >= clients:
        raise BadInput(
            f"evaluation.unseen_clients = {share}: of {clients} client(s) none would be left to train. "
            "Use more clients or a smaller share."
        )
    apart = np.zeros(clients, bool)
    apart[rng.choice(clients, unseen, replace=False)] = True
    return population.of_clients(~apart), population.of_clients(apart)
