"""Label skew: every client holds records of exactly so many classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Examples
from fedsim.errors import BadInput
from fedsim.population.population import Indices, Population, check_enough
from fedsim.settings import Count, section

# So many clients draw their classes at once, which bounds the memory.
DRAWN_VALUES = 1 << 24


@section
@dataclass(frozen=True)
class Pathological:
    """Every client draws ``classes_per_client`` classes at random; the clients of a class share it evenly.

    Source: "#C = k" of Li et al. 2022 (arXiv 2102.02079). A class that nobody draws replaces one that several drew, so
    that every record is held by somebody.
    """

    kind: Literal["pathological"] = "pathological"
    classes_per_client: Count = 2

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Draw the classes and deal their records; raises ``BadInput`` where a class has too few for its clients."""
        check_enough(len(examples), clients, self.classes_per_client, "classes_per_client")
        labels, members = np.unique(examples.strata, return_inverse=True)
        self._check(len(labels), clients)
        takers = _drawn(len(labels), clients, self.classes_per_client, rng)
        _use_all(takers, len(labels), rng)
        counts, wanted = np.bincount(members), np.bincount(takers.ravel(), minlength=len(labels))
        _check_counts(labels, counts, wanted)
        # Class after class: its clients in random order, and its records in random order, dealt out in turn.
        slots = rng.permutation(takers.size)
        slots = slots[np.argsort(takers.ravel()[slots], kind="stable")]
        records = rng.permutation(len(members))
        records = records[np.argsort(members[records], kind="stable")]
        place = np.arange(len(records)) - np.repeat(np.cumsum(counts) - counts, counts)
        slot = np.repeat(np.cumsum(wanted) - wanted, counts) + place % np.repeat(wanted, counts)
        owners = np.empty(len(records), np.int64)
        owners[records] = slots[slot] // self.classes_per_client
        return Population.from_owners(owners, clients)

    def _check(self, classes: int, clients: int) -> None:
        path = f"population.partition.classes_per_client = {self.classes_per_client}"
        if self.classes_per_client > classes:
            raise BadInput(f"{path}: the training data has only {classes} classes.")
        if clients * self.classes_per_client < classes:
            raise BadInput(
                f"{path}: {clients} clients cannot hold all {classes} classes; "
                f"it must be at least {-(-classes // clients)}."
            )


def _drawn(classes: int, clients: int, each: int, rng: np.random.Generator) -> Indices:
    """A random set of ``each`` different classes for every client ``[clients, each]``."""
    if each * each > classes:  # then a draw with replacement would often have a class twice
        step = max(1, DRAWN_VALUES // classes)
        counts = [min(step, clients - start) for start in range(0, clients, step)]
        parts = [np.argpartition(rng.random((count, classes)), each - 1, axis=1)[:, :each] for count in counts]
        return np.concatenate(parts).astype(np.int64)
    drawn = rng.integers(classes, size=(clients, each))
    again = np.arange(clients)
    while len(again):
        ordered = np.sort(drawn[again], axis=1)
        again = again[(ordered[:, 1:] == ordered[:, :-1]).any(axis=1)]
        drawn[again] = rng.integers(classes, size=(len(again), each))
    return drawn


def _use_all(takers: Indices, classes: int, rng: np.random.Generator) -> None:
    """Give every class that nobody drew to a random client in place of one that several drew, in place."""
    flat = takers.reshape(-1)
    for unused in np.flatnonzero(np.bincount(flat, minlength=classes) == 0):
        shared = np.bincount(flat, minlength=classes)[flat] > 1
        flat[rng.choice(np.flatnonzero(shared))] = unused


def _check_counts(labels: NDArray[np.int64], counts: Indices, wanted: Indices) -> None:
    short = np.flatnonzero(wanted > counts)
    if len(short):
        first = int(short[0])
        raise BadInput(
            f'population.partition.kind = "pathological": {int(wanted[first])} clients drew class '
            f"{int(labels[first])}, which has only {int(counts[first])} training records. Use fewer clients or "
            "classes_per_client, or shards."
        )
