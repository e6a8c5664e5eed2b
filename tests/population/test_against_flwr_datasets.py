"""Our partitions agree in distribution with those of flwr-datasets.

Of 30 splits by each, three statistics are compared by Welch's test (bounded at |t| = 5.5: with 29 degrees of freedom or
more a false alarm comes once in 150,000), and the labels of client 0 by Kolmogorov-Smirnov (p > 1e-6; ties only make
it more lenient). 5 partitions and 4 comparisons: a false alarm in 10,000 runs, if the seeds were not fixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from fedsim.data import Examples
from fedsim.population import Dirichlet, Iid, Natural, Pathological, QuantitySkew, Shards
from fedsim.seeding import Stream, generator

partitioner = pytest.importorskip("flwr_datasets.partitioner", reason="flwr-datasets is not installed")
datasets = pytest.importorskip("datasets", reason="flwr-datasets is not installed")

CLIENTS, SPLITS, RECORDS, CLASSES = 10, 30, 500, 8
LABELS = np.random.default_rng(5).integers(0, CLASSES, RECORDS)
OWNERS = np.random.default_rng(6).integers(0, CLIENTS, RECORDS)

Held = list[np.ndarray]  # the labels that each client holds


def ours(partition: Any, seed: int) -> Held:
    examples = Examples(np.zeros((RECORDS, 1), np.float32), LABELS, OWNERS)
    population = partition.split(examples, CLIENTS, generator(seed, Stream.PARTITION))
    return [LABELS[population.records(client)] for client in range(CLIENTS)]


def theirs(made: Any, seed: int) -> Held:
    """What flwr-datasets gives for the same records, in random order as its data sets are by default."""
    order = np.random.default_rng([9, seed]).permutation(RECORDS)
    columns = {"label": LABELS[order].tolist(), "owner": OWNERS[order].tolist()}
    made.dataset = datasets.Dataset.from_dict(columns)
    return [np.array(made.load_partition(client)["label"], np.int64) for client in range(CLIENTS)]


STATISTICS: dict[str, Callable[[Held], float]] = {
    "share of a client's most frequent class": lambda held: float(
        np.mean([np.bincount(own).max() / len(own) for own in held if len(own)])
    ),
    "classes of a client": lambda held: float(np.mean([len(np.unique(own)) for own in held])),
    "squared size": lambda held: float(np.mean([len(own) ** 2 for own in held])),
}
PAIRS: dict[str, tuple[Any, Callable[[int], Any]]] = {
    "iid": (Iid(), lambda seed: partitioner.IidPartitioner(CLIENTS)),
    "dirichlet": (
        Dirichlet(alpha=0.5),
        lambda seed: partitioner.DirichletPartitioner(CLIENTS, "label", alpha=0.5, min_partition_size=1, seed=seed),
    ),
    "shards": (
        Shards(shards_per_client=2),
        lambda seed: partitioner.ShardPartitioner(CLIENTS, "label", num_shards_per_partition=2, seed=seed),
    ),
    "pathological": (
        Pathological(classes_per_client=3),
        lambda seed: partitioner.PathologicalPartitioner(CLIENTS, "label", num_classes_per_partition=3, seed=seed),
    ),
    "quantity_skew": (
        QuantitySkew(law="power_law", exponent=1.0),
        lambda seed: partitioner.SizePartitioner(power_law_sizes(seed)),
    ),
}


def power_law_sizes(seed: int) -> list[int]:
    """Sizes in proportion to 1 / rank in random order, by the obvious rounding of what is left."""
    sizes = [1 + round((RECORDS - CLIENTS) / rank / sum(1 / r for r in range(1, 11))) for rank in range(1, 11)]
    sizes[0] += RECORDS - sum(sizes)
    return np.random.default_rng([3, seed]).permutation(sizes).tolist()


@pytest.mark.parametrize("kind", PAIRS)
def test_a_partition_agrees_in_distribution_with_flwr_datasets(kind):
    partition, make = PAIRS[kind]
    own = [ours(partition, seed) for seed in range(SPLITS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs warn of classes that nobody drew
        other = [theirs(make(seed), seed) for seed in range(SPLITS)]
    for name, statistic in STATISTICS.items():
        a, b = ([statistic(held) for held in sample] for sample in (own, other))
        error = np.sqrt((np.var(a, ddof=1) + np.var(b, ddof=1)) / SPLITS)
        slack = 0.01 * np.mean(b)  # sizes that are not random differ in their rounding
        assert abs(np.mean(a) - np.mean(b)) < 5.5 * error + slack, name
        assert error < 0.1 * np.mean(b), name  # it can tell a difference of half the value
    first, second = (
        np.array([np.bincount(held[0], minlength=CLASSES)[0] for held in sample]) for sample in (own, other)
    )
    assert stats.ks_2samp(first, second).pvalue > 1e-6


def test_natural_owners_are_the_same_clients():
    made = partitioner.NaturalIdPartitioner(partition_by="owner")
    made.dataset = datasets.Dataset.from_dict({"owner": OWNERS.tolist(), "record": list(range(RECORDS))})
    found = {tuple(sorted(made.load_partition(client)["record"])) for client in range(made.num_partitions)}
    examples = Examples(np.zeros((RECORDS, 1), np.float32), LABELS, OWNERS)
    population = Natural().split(examples, Natural().count(examples), generator(0, Stream.PARTITION))
    assert {tuple(population.records(client).tolist()) for client in range(len(population))} == found
