"""Clipping bounds every contribution, whatever the numbers are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsim.privacy.clipping import clip_rows, clipped_sums, row_norms

values = st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=300, deadline=None)
@example([[0.0, 1.8075951081410862e34, 1.8075952319350901e34]], 1e-6)  # its factor is subnormal in float32
@given(st.lists(st.lists(values, min_size=3, max_size=3), min_size=1, max_size=5), st.floats(1e-6, 1e6))
def test_no_row_exceeds_the_clip_norm_and_small_rows_stay(rows, clip_norm):
    rows = torch.tensor(rows, dtype=torch.float32)
    result = clip_rows(rows, clip_norm)
    clipped, bad = result.rows, result.invalid
    finite = torch.isfinite(rows).all(dim=1)
    assert torch.isfinite(clipped).all()
    assert (clipped.double().norm(dim=1) <= clip_norm).all()
    assert bad == int((~finite).sum())
    assert (clipped[~finite] == 0).all()
    small = finite & (rows.double().norm(dim=1) <= clip_norm * 0.999)
    assert torch.equal(clipped[small], rows[small])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=4), st.floats(1e-3, 10))
def test_the_direction_is_kept(row, clip_norm):
    row = torch.tensor([row])
    clipped = clip_rows(row, clip_norm).rows
    norm = float(row.double().norm())
    expected = row.double() * (min(1.0, clip_norm / norm) if norm else 1.0)
    torch.testing.assert_close(clipped.double(), expected, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_whose_squares_overflow_are_clipped_not_dropped(dtype):
    rows = torch.full((1, 4), 3e4, dtype=dtype)  # squares exceed the largest float16
    result = clip_rows(rows, 1.0)
    clipped, bad = result.rows, result.invalid
    assert bad == 0
    assert float(clipped.double().norm()) == pytest.approx(1.0, rel=1e-2)


def test_the_largest_float32_values_are_clipped_not_dropped():
    result = clip_rows(torch.full((1, 100), 3e38), 0.5)
    clipped, bad = result.rows, result.invalid
    assert bad == 0
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
