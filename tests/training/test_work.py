"""How much of the vectorised trainer's padded work is wasted on clients of very different sizes."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.data import Examples
from fedsim.population import Dirichlet
from fedsim.training.work import Held, epoch_batches


@pytest.mark.parametrize("clients", [20, 100, 1000])
def test_little_is_padded_on_a_skewed_split(clients):
    """60,000 records of 10 classes, Dirichlet 0.1, batches of 10: less than a tenth of the places are empty."""
    rng = np.random.default_rng(0)
    examples = Examples(np.zeros((60000, 1), np.float32), np.repeat(np.arange(10), 6000))
    population = Dirichlet(alpha=0.1).split(examples, clients, rng)
    sizes = population.sizes
    assert sizes.max() > 20 * sizes.min()
    steps = -(-sizes // 10)
    order = np.argsort(-steps, kind="stable")
    held = Held(population.indices, population.offsets[order], sizes[order])
    draw = lambda counts: rng.integers(0, 2**64, int(counts.sum()), np.uint64)  # noqa: E731
    records, lengths = epoch_batches(held, 10, steps[order], draw)
    assert len(records) == 60_000
    places = ((lengths >= 0).sum(axis=0) * lengths.max(axis=0)).sum()
    assert 1 - len(records) / places < 0.1
