"""Correlated noise against dense matrices, brute force over participation patterns, and published errors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from torch import Tensor

from fedsim.privacy.accounting import epsilon
from fedsim.privacy.correlated import (
    Coefficients,
    CorrelatedNoise,
    StreamingNoise,
    TreeNoise,
    banded_coefficients,
    max_participations,
    prefix_rmse,
    sensitivity,
    sqrt_toeplitz,
    streamed_tree_rmse,
    tree_matrix,
    tree_rmse,
    tree_sensitivity,
)
from fedsim.privacy.events import Event, compose
from fedsim.privacy.mechanism import GaussianSum

Matrix = NDArray[np.float64]


def dense(coefficients: Coefficients, rounds: int) -> Matrix:
    column = np.zeros(rounds)
    column[: len(coefficients)] = coefficients[:rounds]
    return np.tril(toeplitz(column))


def dense_rmse(strategy: Matrix) -> float:
    """The error of the best decoder of a strategy matrix C, with one participation."""
    decoder = np.tri(strategy.shape[1]) @ np.linalg.pinv(strategy)
    return float(np.linalg.norm(decoder) / math.sqrt(strategy.shape[1]) * np.linalg.norm(strategy, axis=0).max())


def replay(rows: Matrix) -> Callable[[], Tensor]:
    left = iter(torch.from_numpy(rows))
    return lambda: next(left)


def delivered(noise: CorrelatedNoise, rounds: int) -> Matrix:
    """C^-1 as a stream delivers it: the draws are the unit vectors."""
    draw = replay(np.eye(rounds))
    return np.array([noise.next(draw).numpy() for _ in range(rounds)])


def brute_force_sensitivity(strategy: Matrix, min_separation: int) -> float:
    """Largest ||C u|| over all admissible participation patterns u with entries -1, 0, 1."""
    rounds, worst = strategy.shape[1], 0.0
    for pattern in itertools.product((0, 1), repeat=rounds):
        times = np.flatnonzero(pattern)
        if len(times) and (len(times) == 1 or np.diff(times).min() >= min_separation):
            for signs in itertools.product((-1.0, 1.0), repeat=len(times)):
                worst = max(worst, float(np.linalg.norm(strategy[:, times] @ np.array(signs))))
    return worst


# --- coefficients and errors


def test_the_square_root_is_one() -> None:
    root = dense(sqrt_toeplitz(40), 40)
    np.testing.assert_allclose(root @ root, np.tri(40), atol=1e-12)
    np.testing.assert_allclose(sqrt_toeplitz(9), [math.comb(2 * k, k) / 4**k for k in range(9)], rtol=1e-12)


@pytest.mark.parametrize(("bands", "expected"), [(1, 11.336), (8, 4.548), (32, 3.087), (64, 2.783)])
def test_known_errors_of_banded_factors(bands: int, expected: float) -> None:
    assert prefix_rmse(banded_coefficients(256, bands), 256) == pytest.approx(expected, abs=5.01e-4)


def test_known_error_of_the_square_root() -> None:
    assert prefix_rmse(sqrt_toeplitz(256), 256) == pytest.approx(2.669, abs=5e-4)
    # Truncating it is not the optimum that the known errors belong to.
    assert prefix_rmse(sqrt_toeplitz(8), 256) > 1.07 * prefix_rmse(banded_coefficients(256, 8), 256)


@pytest.mark.parametrize(("rounds", "bands"), [(1, 1), (7, 3), (30, 30), (50, 8)])
def test_the_error_is_that_of_the_dense_matrices(rounds: int, bands: int) -> None:
    coefficients = banded_coefficients(rounds, bands)
    assert prefix_rmse(coefficients, rounds) == pytest.approx(dense_rmse(dense(coefficients, rounds)), rel=1e-10)
    assert prefix_rmse(3 * coefficients, rounds) == pytest.approx(prefix_rmse(coefficients, rounds), rel=1e-12)


def test_coefficients_beyond_the_last_round_do_not_count() -> None:
    assert prefix_rmse(sqrt_toeplitz(20), 6) == pytest.approx(prefix_rmse(sqrt_toeplitz(6), 6), rel=1e-12)
    assert sensitivity(sqrt_toeplitz(20), 6, 6) == pytest.approx(np.linalg.norm(sqrt_toeplitz(6)), rel=1e-12)


@pytest.mark.parametrize(("rounds", "bands"), [(2, 2), (64, 4), (64, 64), (2048, 64), (1000, 3), (10_000, 2)])
def test_banded_coefficients_are_normalised_and_optimal(rounds: int, bands: int) -> None:
    best = banded_coefficients(rounds, bands)
    assert best.shape == (bands,)
    assert np.linalg.norm(best) == pytest.approx(1, abs=1e-12)
    assert (np.diff(best) < 0).all()
    least, rng = prefix_rmse(best, rounds), np.random.default_rng(5)
    for step in (0.1, 0.01, 1e-3):
        for _ in range(10):
            ratios = best[1:] / best[:-1] * np.exp(step * rng.standard_normal(bands - 1))
            other = np.cumprod([1.0, *np.minimum(ratios, 1.0)])
            assert prefix_rmse(other, rounds) > least * (1 - 1e-6)


# --- sensitivity and its price


@pytest.mark.parametrize(
    ("rounds", "bands", "min_separation"), [(9, 3, 3), (10, 3, 3), (10, 2, 5), (8, 8, 8), (8, 1, 1)]
)
def test_sensitivity_is_that_of_the_worst_pattern(rounds: int, bands: int, min_separation: int) -> None:
    coefficients = banded_coefficients(rounds, bands)
    expected = brute_force_sensitivity(dense(coefficients, rounds), min_separation)
    assert sensitivity(coefficients, rounds, min_separation) == pytest.approx(expected, rel=1e-12)
    assert expected <= math.sqrt(max_participations(rounds, min_separation)) + 1e-12


def test_bands_that_overlap_are_refused() -> None:
    coefficients = banded_coefficients(9, 4)
    with pytest.raises(ValueError, match="bands = 4 must be at most min_separation = 3"):
        sensitivity(coefficients, 9, 3)
    # With good reason: the formula for orthogonal columns would understate the truth.
    assert brute_force_sensitivity(dense(coefficients, 9), 3) > 1.05 * math.sqrt(max_participations(9, 3))


def test_known_epsilon_of_six_participations() -> None:
    bound = sensitivity(banded_coefficients(2052, 342), 2052, 342)
    assert [max_participations(rounds, 342) for rounds in (1, 2052, 2053)] == [1, 6, 7]
    assert bound == pytest.approx(math.sqrt(6), rel=1e-12)
    assert epsilon(compose([(Event(1 / bound), 1)]), 1e-6) == pytest.approx(14.0901, abs=1e-4)


# --- streams


@pytest.mark.parametrize("bands", [1, 2, 5, 12])
def test_the_stream_is_the_dense_inverse(bands: int) -> None:
    coefficients = banded_coefficients(12, bands)
    fresh = np.random.default_rng(1).standard_normal((12, 3))
    noise, draw = StreamingNoise(coefficients), replay(fresh)
    rows = []
    for t in range(12):
        row = noise.next(draw)
        rows.append(row.numpy().copy())
        row.fill_(math.nan)  # what the caller does with a row must not reach the stream
        assert len(noise.state()) == min(t + 1, bands - 1)
    np.testing.assert_allclose(rows, np.linalg.solve(dense(coefficients, 12), fresh), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("build", [lambda: StreamingNoise(banded_coefficients(8, 3)), lambda: TreeNoise(8)])
def test_a_stream_shares_no_memory_with_its_draws(build: Callable[[], CorrelatedNoise]) -> None:
    fresh, buffer, noise, seen = torch.eye(8, dtype=torch.float64), torch.empty(8, dtype=torch.float64), build(), []
    for row in fresh:
        seen.append(noise.next(lambda row=row: buffer.copy_(row)))  # type: ignore[misc]
        assert torch.equal(buffer, row)
    np.testing.assert_array_equal(torch.stack(seen).numpy(), delivered(build(), 8))


def test_the_covariance_is_that_of_the_inverse() -> None:
    """21 covariances from 100,000 samples, each within 6 standard errors: false alarms below 21 * 2e-9."""
    rounds, samples = 6, 100_000
    coefficients = banded_coefficients(rounds, 3)
    noise, rng = StreamingNoise(coefficients), np.random.default_rng(11)
    rows = np.array([noise.next(lambda: torch.from_numpy(rng.standard_normal(samples))).numpy() for _ in range(rounds)])
    strategy = dense(coefficients, rounds)
    expected = np.linalg.inv(strategy.T @ strategy)
    variances = np.diag(expected)
    error = np.sqrt((np.outer(variances, variances) + expected**2) / samples)
    assert (np.abs(rows @ rows.T / samples - expected) < 6 * error).all()


@pytest.mark.parametrize("build", [lambda: StreamingNoise(banded_coefficients(13, 4)), lambda: TreeNoise(13)])
@pytest.mark.parametrize("stop", range(13))
def test_a_restored_stream_goes_on_bit_for_bit(build: Callable[[], CorrelatedNoise], stop: int) -> None:
    fresh = np.random.default_rng(2).standard_normal((13, 5))
    whole, draw = build(), replay(fresh)
    expected = [whole.next(draw) for _ in range(13)]
    first, draw = build(), replay(fresh)
    for _ in range(stop):
        first.next(draw)
    second = build()
    second.restore(first.state())
    assert torch.equal(second.state(), first.state())
    for t in range(stop, 13):
        assert torch.equal(second.next(draw), expected[t])


def test_a_release_through_the_mechanism_carries_the_decoder_times_the_draws() -> None:
    coefficients, rounds, params = banded_coefficients(8, 3), 8, 4
    mechanism, noise = GaussianSum(Event(0.7), clip_norm=2.0), StreamingNoise(coefficients)
    sums = torch.from_numpy(np.random.default_rng(3).standard_normal((rounds, params)))
    rng = np.random.default_rng(4)
    released = [mechanism.release(total, rng, correlate=noise.next).total.numpy() for total in sums]
    fresh = np.random.default_rng(4).standard_normal((rounds, params))
    decoder = np.tri(rounds) @ np.linalg.inv(dense(coefficients, rounds))
    expected = np.cumsum(sums.numpy(), axis=0) + 0.7 * 2.0 * decoder @ fresh
    np.testing.assert_allclose(np.cumsum(released, axis=0), expected, rtol=1e-10, atol=1e-10)


# --- the binary tree


@pytest.mark.parametrize("rounds", [1, 2, 3, 6, 8, 13, 16])
def test_the_tree_matrix_holds_every_complete_block(rounds: int) -> None:
    strategy = tree_matrix(rounds)
    blocks = {(i * 2**k, (i + 1) * 2**k) for k in range(6) for i in range(rounds) if (i + 1) * 2**k <= rounds}
    found = [(int(np.flatnonzero(row)[0]), int(np.flatnonzero(row)[-1]) + 1) for row in strategy]
    assert set(found) == blocks
    assert len(found) == len(blocks)
    assert all(row.sum() == stop - start for row, (start, stop) in zip(strategy, found, strict=True))
    assert np.linalg.norm(strategy, axis=0).max() == pytest.approx(tree_sensitivity(rounds), rel=1e-12)
    assert tree_sensitivity(rounds) == pytest.approx(math.sqrt(math.ceil(math.log2(rounds + 1))), rel=1e-12)


@pytest.mark.parametrize("rounds", [1, 2, 5, 8, 31])
def test_the_tree_error_is_that_of_the_pseudo_inverse(rounds: int) -> None:
    assert tree_rmse(rounds) == pytest.approx(dense_rmse(tree_matrix(rounds)), rel=1e-9)


def test_the_tree_loses_against_the_square_root() -> None:
    assert tree_rmse(256) == pytest.approx(3.102, abs=5e-4)
    assert prefix_rmse(sqrt_toeplitz(256), 256) < tree_rmse(256) < streamed_tree_rmse(256)


def left_to_right(rounds: int) -> list[tuple[int, int]]:
    """The dyadic blocks of [0, rounds), the largest first, by the definition."""
    blocks, start = [], 0
    while start < rounds:
        size = max(2**k for k in range(12) if start % 2**k == 0 and start + 2**k <= rounds)
        blocks.append((start, start + size))
        start += size
    return blocks


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 8, 21, 32])
def test_the_running_sum_of_the_tree_is_that_of_its_blocks(rounds: int) -> None:
    sums = np.tri(rounds) @ delivered(TreeNoise(rounds), rounds) / tree_sensitivity(rounds)
    owner: dict[int, tuple[int, int]] = {}
    for t in range(rounds):
        expected = np.zeros(rounds)
        for start, stop in left_to_right(t + 1):
            expected[stop - 1] = 1  # the block's noise was drawn in its last round, and is nobody else's
            assert owner.setdefault(stop, (start, stop)) == (start, stop)
        np.testing.assert_allclose(sums[t], expected, atol=1e-12)
    error = np.linalg.norm(sums) / math.sqrt(rounds) * tree_sensitivity(rounds)
    assert streamed_tree_rmse(rounds) == pytest.approx(error, rel=1e-10)


@pytest.mark.parametrize("rounds", [1, 6, 16, 21])
def test_one_participation_in_the_streamed_tree_is_worth_one(rounds: int) -> None:
    strategy = np.linalg.inv(delivered(TreeNoise(rounds), rounds))
    np.testing.assert_allclose(strategy, np.tril(strategy), atol=1e-12)
    assert np.linalg.norm(strategy, axis=0).max() == pytest.approx(1, rel=1e-12)


def test_the_tree_keeps_few_rows_and_ends() -> None:
    noise, rng = TreeNoise(100), np.random.default_rng(0)
    for t in range(1, 101):
        noise.next(lambda: torch.from_numpy(rng.standard_normal(2)))
        assert len(noise.state()) == 1 + t.bit_count()
    with pytest.raises(RuntimeError, match="100 rounds"):
        noise.next(lambda: torch.zeros(2))


# --- refusals


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sqrt_toeplitz(0), "bands must be at least 1"),
        (lambda: banded_coefficients(4, 5), "bands must be at most rounds = 4"),
        (lambda: prefix_rmse([0.0, 1.0], 3), "first entry is positive"),
        (lambda: StreamingNoise([]), "non-empty"),
        (lambda: StreamingNoise([1.0, math.nan]), "finite"),
        (lambda: max_participations(4, 0), "min_separation must be at least 1"),
        (lambda: TreeNoise(0), "rounds must be at least 1"),
        (lambda: StreamingNoise([1.0, 0.5]).restore(torch.zeros(2, 3)), "at most 1 rows"),
        (lambda: TreeNoise(8).restore(torch.full((2, 3), 3.0)), "no state"),
        (lambda: TreeNoise(3).restore(torch.full((2, 3), 4.0)), "no state"),
    ],
)
def test_refusals(call: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
