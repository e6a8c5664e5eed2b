"""A population in numbers: how much the clients hold, and how their labels differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data import Dataset
from fedsim.population.population import Indices, Population

SHOWN_CLIENTS = 50


def size_statistics(population: Population) -> dict[str, Any]:
    """Number of clients and records, and the distribution of the sizes: quartiles and a histogram."""
    sizes = population.sizes
    low, first, median, third, high = np.percentile(sizes, [0, 25, 50, 75, 100]).tolist()
    return {
        "clients": len(sizes),
        "records": int(sizes.sum()),
        "sizes": {
            **histogram(sizes),
            "min": int(low),
            "first_quartile": first,
            "median": median,
            "third_quartile": third,
            "max": int(high),
            "mean": float(sizes.mean()),
        },
    }


def histogram(values: NDArray[Any]) -> dict[str, list[float]]:
    """At most 20 bins of whole width for whole numbers; values that differ by less than 1 % share one bin."""
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer):
        step = max(1, -(-int(high - low + 1) // 20))
        bins = np.arange(low, high + step + 1, step) - 0.5
    elif not np.isfinite(high) or high - low <= 0.01 * high:
        bins = np.array([0.95 * low, 1.05 * high]) if 0 < high < np.inf else np.array([0.0, 1.0])
    else:
        bins = np.linspace(low, high, min(20, len(np.unique(values))) + 1)
    counts, edges = np.histogram(values, bins=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def label_counts(data: Dataset, population: Population, clients: int = SHOWN_CLIENTS) -> dict[str, Any] | None:
    """How many records of each class the first clients hold; None where the labels are no classes."""
    if data.kind != "classes":
        return None
    shown = range(min(clients, len(population)))
    labels = data.train.labels
    counts = [np.bincount(labels[population.records(client)], minlength=len(data.names)).tolist() for client in shown]
    return {"classes": list(data.names), "clients": list(shown), "counts": counts}


def label_skew(strata: Indices, population: Population) -> dict[str, float]:
    """Over clients, the mean number of classes held and the mean total-variation distance from the pooled labels.

    ``strata`` gives the class of each record of the data. The distance is 0 where a client's labels are distributed
    as everybody's together, and near 1 where they share next to nothing.
    """
    classes = int(strata.max()) + 1
    owners = np.repeat(np.arange(len(population)), population.sizes)
    pairs, counts = np.unique(owners * classes + strata[population.indices], return_counts=True)
    client, label = np.divmod(pairs, classes)
    pooled = np.bincount(label, counts, minlength=classes) / counts.sum()
    shares = counts / population.sizes[client]
    # A class that a client does not hold adds its whole pooled share.
    distance = np.bincount(client, np.abs(shares - pooled[label]) - pooled[label], minlength=len(population)) + 1
    return {
        "mean_classes": len(pairs) / len(population),
        "mean_total_variation": float(distance.mean() / 2),
    }
