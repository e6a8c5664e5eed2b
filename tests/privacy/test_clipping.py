"""Clipping bounds every contribution, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsim.privacy.clipping import centred_count, clip_rows, clipped_sums, row_norms
from fedsim.training import TRAINERS
from tests.conftest import trainer_of

values = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=300, deadline=None)
@example([[0.0, 1.8075951081410862e34, 1.8075952319350901e34]], 1e-6)  # its factor is subnormal in float32
@given(st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=5), st.floats(1e-6, 1e6))
def test_no_row_exceeds_the_clip_norm_and_small_rows_stay(rows, clip_norm):
    rows = torch.tensor(rows, dtype=torch.float32)
    clipped, norms = clip_rows(rows, clip_norm)
    finite = torch.isfinite(rows).all(dim=1)
    assert torch.isfinite(clipped).all()
    assert (clipped.double().norm(dim=1) <= clip_norm).all()
    assert torch.equal(torch.isfinite(norms), finite)
    assert (clipped[~finite] == 0).all()
    small = finite & (rows.double().norm(dim=1) <= clip_norm * 0.999)
    assert torch.equal(clipped[small], rows[small])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4), st.floats(1e-3, 10))
def test_the_direction_is_kept(row, clip_norm):
    row = torch.tensor([row])
    clipped = clip_rows(row, clip_norm)[0]
    norm = float(row.double().norm())
    expected = row.double() * (min(1.0, clip_norm / norm) if norm else 1.0)
    torch.testing.assert_close(clipped.double(), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_whose_squares_overflow_are_clipped_not_dropped(dtype):
    rows = torch.full((1, 4), 3e4, dtype=dtype)  # squares exceed the largest float16
    clipped, norms = clip_rows(rows, 1.0)
    assert torch.isfinite(norms).all()
    assert float(clipped.double().norm()) == pytest.approx(1.0, rel=1e-2)


def test_the_largest_float32_values_are_clipped_not_dropped():
    clipped, norms = clip_rows(torch.full((1, 100), 3e38), 0.5)
    assert torch.isfinite(norms).all()
    assert float(clipped.double().norm()) == pytest.approx(0.5, rel=1e-5)


def test_sums_are_those_of_the_slow_loop_and_padding_does_not_count():
    rng = np.random.default_rng(0)
    gradients = torch.from_numpy(rng.normal(size=(3, 5, 7))).float()
    mask = torch.from_numpy(rng.random((3, 5)) < 0.6)
    gradients[~mask] = float("nan")
    expected = torch.zeros(3, 7)
    for client in range(3):
        for row in range(5):
            if mask[client, row]:
                g = gradients[client, row]
                expected[client] += g * min(1.0, 1.5 / float(g.norm()))
    sums, counts = clipped_sums(gradients, mask, 1.5)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-6)
    bits = [
        [0.5 if float(g.norm()) <= 1.5 else -0.5 for g, real in zip(*row, strict=True) if real]
        for row in zip(gradients, mask, strict=True)
    ]
    assert counts.tolist() == [sum(row) for row in bits]


def test_norms_are_accumulated_in_float64():
    rows = torch.full((1, 1_000_000), 1e-4)
    rows[0, 0] = 1e4
    assert float(row_norms(rows)[0]) == pytest.approx(float(rows.double().norm()), rel=1e-12)


def test_per_layer_clipping_is_the_slow_loop_and_bounds_the_whole():
    rng = np.random.default_rng(1)
    gradients = torch.from_numpy(rng.normal(size=(2, 4, 9)) * 3).float()
    mask = torch.ones(2, 4, dtype=torch.bool)
    sums, _ = clipped_sums(gradients, mask, 1.2, sizes=[2, 3, 4])
    for client in range(2):
        expected = torch.zeros(9)
        for row in range(4):
            parts = gradients[client, row].split([2, 3, 4])
            clipped = torch.cat([part * min(1.0, 1.2 / 3**0.5 / float(part.norm())) for part in parts])
            assert float(clipped.norm()) <= 1.2 * (1 + 1e-6)
            expected += clipped
        torch.testing.assert_close(sums[client], expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_whose_factor_is_subnormal_does_not_exceed_the_clip_norm():
    """In float32 the factor 3e-45 would be rounded up by 40 %."""
    gradients = torch.full((1, 1, 4), 1.6e38)
    total, _ = clipped_sums(gradients, torch.ones(1, 1, dtype=torch.bool), 1e-6)
    assert float(total.double().norm()) <= 1e-6


def test_the_centred_count_is_of_rows_that_are_not_longer():
    norms = torch.tensor([0.0, 1.5, 1.5000001, 9.0, torch.nan, torch.inf], dtype=torch.float64)
    assert centred_count(norms, 1.5) == 0.5 * 2 - 0.5 * 4
    assert centred_count(norms[:0], 1.5) == 0


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("clip_norm", [1e-6, 0.7, float("inf")])
def test_every_trainer_adds_up_clipped_updates_as_the_slow_loop_does(federation, trainer, clip_norm):
    rng = np.random.default_rng(3)
    updates = torch.from_numpy(rng.normal(size=(9, 610)) * 10.0 ** rng.integers(-3, 2, (9, 1))).float()
    updates[2, 5], updates[4, 600], updates[6] = torch.nan, -torch.inf, 0.0
    updates[8] = 3e38  # its square overflows
    weights = torch.from_numpy(rng.random(9) * 3)
    total = torch.from_numpy(rng.normal(size=610))
    expected, norms = total.clone(), []
    for update, weight in zip(updates.double(), weights, strict=True):
        norms.append(float(update.norm()))
        if np.isfinite(norms[-1]):
            expected += weight * update * min(1.0, clip_norm / norms[-1] if norms[-1] else 1.0)
    found = trainer_of(federation(), trainer).add_clipped(total, updates, clip_norm, weights)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5 * min(clip_norm, 1.0))
    np.testing.assert_allclose(found[np.isfinite(norms)], np.array(norms)[np.isfinite(norms)], rtol=1e-9)
    assert torch.isfinite(found).tolist() == np.isfinite(norms).tolist()


@pytest.mark.parametrize("trainer", TRAINERS)
def test_no_trainer_adds_more_of_an_update_than_the_clip_norm(federation, trainer):
    made, rng = trainer_of(federation(), trainer), np.random.default_rng(4)
    for scale in (0.03, 1.0, 1e30):
        for clip_norm in (1e-6, 0.7):
            update, total = torch.from_numpy(rng.normal(size=(1, 610)) * scale).float(), torch.zeros(610).double()
            made.add_clipped(total, update, clip_norm, torch.ones(1))
            assert float(total.norm()) <= clip_norm
