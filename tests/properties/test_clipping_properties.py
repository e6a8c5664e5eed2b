"""Clipping, with any numbers that a float32 can be: never longer than the clip norm, never turned, never NaN."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.privacy.clipping import add_clipped, centred_count, clip_rows, clipped_sums
from fedsim.privacy.mechanism import adapted
from tests.properties.profile import tried

numbers = st.one_of(
    st.floats(width=32),
    st.sampled_from(
        [0.0, -0.0, 1e-45, -1e-45, 1.2e-38, 1e-38, 1e38, 3.4028234663852886e38, math.nan, math.inf, -math.inf]
    ),
    st.floats(-10, 10, width=32),
)
rows = st.integers(1, 5).flatmap(
    lambda size: st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=1, max_size=6)
)
norms_to = st.one_of(st.floats(1e-6, 1e6), st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30]))
# The factor is computed for a norm 1e-6 larger than it is; float32 rounds each of n values by 2^-24 of itself.
ULPS = 1.0


def tensor_of(values: list[list[float]]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


@tried(150)
@given(rows, norms_to)
def test_a_clipped_row_is_no_longer_than_the_clip_norm_and_points_where_it_did(values, clip_norm):
    whole = tensor_of(values)
    clipped, norms = clip_rows(whole, clip_norm)
    exact = whole.double()
    lengths = exact.norm(dim=1)
    finite = torch.isfinite(whole).all(dim=1)
    assert (clipped.double().norm(dim=1) <= clip_norm * ULPS).all()
    assert (clipped[~finite] == 0).all()
    assert torch.isnan(norms[~finite]).logical_or(torch.isinf(norms[~finite])).all()
    for row in range(len(whole)):
        if finite[row] and lengths[row] > 0:
            wanted = exact[row] * min(1.0, clip_norm / float(lengths[row]))
            # A value that becomes a subnormal float32 is rounded to a multiple of 1.4e-45.
            torch.testing.assert_close(clipped[row].double(), wanted, rtol=3e-6, atol=3e-45)


@tried(100)
@given(rows, norms_to)
def test_a_sum_of_clipped_rows_is_that_of_the_slow_loop_and_invalid_ones_count_as_too_long(values, clip_norm):
    whole = tensor_of(values)
    weights = torch.linspace(0.1, 1.0, len(whole), dtype=torch.float64)
    total = torch.zeros(whole.shape[1], dtype=torch.float64)
    norms = add_clipped(total, whole, clip_norm, weights)
    expected = np.zeros(whole.shape[1])
    for row, weight in zip(whole.double().numpy(), weights.tolist(), strict=True):
        length = float(np.linalg.norm(row)) if np.isfinite(row).all() else math.inf
        if length < math.inf:
            expected += weight * row * min(1.0, clip_norm / length if length else 1.0)
    np.testing.assert_allclose(total.numpy(), expected, rtol=1e-5, atol=1e-5 * clip_norm + 1e-44)
    assert float(total.norm()) <= float(weights.sum()) * clip_norm * ULPS
    within = sum(float(np.linalg.norm(row)) <= clip_norm for row in whole.double().numpy())
    assert centred_count(norms, clip_norm) == within - len(whole) / 2


@tried(100)
@given(rows, norms_to, st.data())
def test_gradients_of_examples_together_and_by_layer_stay_within_the_clip_norm(values, clip_norm, data):
    """One example alone is the most that the sum can change by when it comes or goes."""
    whole = tensor_of(values)
    size = whole.shape[1]
    cut = data.draw(st.integers(0, size))
    sizes = [part for part in (cut, size - cut) if part]
    for row in whole:
        for by_layer in (None, sizes):
            total, counts = clipped_sums(row.reshape(1, 1, -1), torch.ones(1, 1, dtype=torch.bool), clip_norm, by_layer)
            assert torch.isfinite(total).all()
            assert float(total.double().norm()) <= clip_norm * ULPS
            assert abs(float(counts[0])) == 0.5
    together, counts = clipped_sums(whole[None], torch.ones(1, len(whole), dtype=torch.bool), clip_norm)
    assert float(together.double().norm()) <= len(whole) * clip_norm * (1 + 1e-6)
    assert float(counts[0]) == centred_count(whole.double().norm(dim=1), clip_norm)


@tried(100)
@given(
    st.floats(1e-6, 1e6), st.floats(0.01, 2), st.floats(0.01, 0.99), st.floats(allow_nan=False, allow_infinity=False)
)
def test_an_adapted_clip_norm_stays_a_positive_number_and_moves_the_right_way(clip_norm, rate, quantile, unclipped):
    found = adapted(clip_norm, rate, quantile, unclipped)
    assert 0 < found < math.inf
    assert clip_norm * math.exp(-rate) <= found * (1 + 1e-12)
    assert found <= clip_norm * math.exp(rate) * (1 + 1e-12)
    if unclipped != quantile:
        assert (found <= clip_norm) == (unclipped > quantile) or found == clip_norm
