"""Where a cohort is cut into blocks does not show in a single bit of what a node answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fedsim import updates
from fedsim.client import blocks, train_clients
from tests.conftest import SMALL, job_of, trainer_of

PRIVATE = """
[privacy.example]
clip_norm = 0.7
noise_multiplier = 1.1
delta = 1e-4
clipping = { kind = "adaptive" }
"""
CAPPED = """
[privacy.client]
clip_norm = 0.4
noise_multiplier = 1.2
delta = 1e-2
clipping = { kind = "adaptive" }
"""
WEIGHTED = ('algorithm.weighting="examples"', "algorithm.weight_cap=117")
CASES = {"plain": ("", ()), "example": (PRIVATE, ()), "client": (CAPPED, WEIGHTED)}


def answer(federation, text, *overrides, order=1):
    made = federation("population.clients=30", *overrides, text=SMALL + text)
    job = job_of(made)
    return made, train_clients(made, replace(job, clients=np.ascontiguousarray(job.clients[::order])))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("trainer", ["native", "opacus"])
def test_sums_weights_and_counts_have_the_same_bits(federation, trainer, case):
    text, weighted = CASES[case]
    trainer_of(federation(), trainer)  # or it is skipped
    own = (f"engine.trainer={trainer}", *weighted)
    whole, expected = answer(federation, text, *own)
    assert len(blocks(whole, np.arange(30))) == 1
    cut, found = answer(federation, text, *own, "engine.memory_gib=1e-9", order=-1)
    assert len(blocks(cut, np.arange(30))) == 30
    assert found.total.tobytes() == expected.total.tobytes()
    assert (found.weight, found.events) == (expected.weight, expected.events)
    assert (found.example_count, found.client_count) == (expected.example_count, expected.client_count)
    assert (expected.example_count != 0) == (case == "example")
    assert float(expected.weight).is_integer() == (case != "client")


@pytest.mark.parametrize("trainer", ["native", "opacus", "vectorised"])
def test_a_block_that_fails_after_it_was_added_up_is_not_added_twice(federation, trainer, monkeypatch):
    """Twice would be twice the clip norm. Memory runs out at the last that is computed, and halves train again."""
    trainer_of(federation(), trainer)
    _, expected = answer(federation, CAPPED, f"engine.trainer={trainer}", *WEIGHTED)
    count, calls = updates.centred_count, []

    def failing(norms, clip_norm):
        calls.append(len(norms))
        if len(calls) == 1:
            raise MemoryError
        return count(norms, clip_norm)

    monkeypatch.setattr(updates, "centred_count", failing)
    _, found = answer(federation, CAPPED, f"engine.trainer={trainer}", *WEIGHTED)
    assert calls == [30, 15, 15]
    np.testing.assert_allclose(found.total, expected.total, rtol=1e-4, atol=1e-6)
    assert found.weight == expected.weight
    assert trainer == "vectorised" or found.total.tobytes() == expected.total.tobytes()
