"""Noise that is correlated over the rounds, so that the running sum of the releases, the model, carries less of it.

The matrix mechanism: prefix sums A = B C, C lower triangular with column norms of at most 1. Round t releases
g_t + x_t * noise_multiplier * clip_norm, where x_t is row t of C^-1 Z and Z holds independent standard normals; all
releases together are post-processing of C G + Z, one Gaussian mechanism. The clip norm must stay constant.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Coefficients = NDArray[np.float64]
Draw = Callable[[], Tensor]


class CorrelatedNoise(Protocol):
    """A stream of correlated noise, a row per round, whose state fits into a checkpoint."""

    def next(self, draw: Draw) -> Tensor:
        """The noise ``[params]`` of the next round, in units of noise_multiplier * clip_norm."""

    def state(self) -> Tensor:
        """What the next rounds depend on, ``[rows, params]``."""

    def restore(self, state: Tensor) -> None:
        """Go on from a ``state``."""


def _checked(coefficients: ArrayLike) -> Coefficients:
    values = np.asarray(coefficients, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError("coefficients must be a non-empty finite vector whose first entry is positive")
    return values


def _positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


# --- banded Toeplitz factors


def sqrt_toeplitz(bands: int) -> Coefficients:
    """The first ``[bands]`` coefficients binom(2k, k) / 4^k of A's Toeplitz square root, not normalised.

    Fichtenberger, Henzinger and Upadhyay 2023 (arXiv 2202.11205). Raises ValueError for bands < 1.
    """
    _positive(bands=bands)
    k = np.arange(1, bands)
    return np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])


def _divide(series: Coefficients, coefficients: Coefficients) -> Coefficients:
    """C^-1 times a vector ``[rounds]``, C Toeplitz with ``[bands]`` diagonals, in O(rounds * bands)."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([1.0], coefficients, series), dtype=np.float64)


def prefix_rmse(coefficients: ArrayLike, rounds: int) -> float:
    """Root mean squared noise on the prefix sums at noise_multiplier * clip_norm = 1, one participation per client.

    It is ||A C^-1||_F / sqrt(rounds) * the largest column norm of C, the scale of ``coefficients [bands]`` being
    immaterial (Choquette-Choo et al. 2023, arXiv 2306.08153). Raises ValueError for invalid coefficients or rounds < 1.
    """
    _positive(rounds=rounds)
    values = _checked(coefficients)[:rounds]
    decoder = _divide(np.ones(rounds), values)
    squares = np.arange(rounds, 0, -1) @ decoder**2
    return float(math.sqrt(squares / rounds) * np.linalg.norm(values))


def _log_error(log_ratios: Coefficients, rounds: int) -> tuple[float, Coefficients]:
    """Logarithm of the squared error, and its gradient, for log(c_j / c_(j-1)) ``[bands - 1]`` and c_0 = 1."""
    values = np.exp(np.concatenate([[0.0], np.cumsum(log_ratios)]))
    decoder = _divide(np.ones(rounds), values)
    weighted = np.arange(rounds, 0, -1) * decoder
    # The derivative of b = 1 / ((1 - x) c(x)) by c_j is -x^j b / c, so the gradient is a correlation with C^-T (w b).
    adjoint = _divide(weighted[::-1], values)[::-1]
    slope = np.array([adjoint[j:] @ decoder[: rounds - j] for j in range(1, len(values))])
    error, norm, free = weighted @ decoder, values @ values, values[1:]
    gradient = free * 2 * (free / norm - slope / error)
    return float(np.log(error) + np.log(norm)), np.cumsum(gradient[::-1])[::-1]


def banded_coefficients(rounds: int, bands: int) -> Coefficients:
    """The ``[bands]`` diagonals of the banded Toeplitz C with the least ``prefix_rmse``, its largest column norm 1.

    L-BFGS from the truncated square root (McKenna 2024, arXiv 2405.15913; Choquette-Choo et al. 2023, arXiv
    2306.08153). One band is independent noise. Raises ValueError unless 1 <= bands <= rounds.
    """
    from scipy.optimize import minimize

    _positive(bands=bands)
    if bands > rounds:
        raise ValueError(f"bands must be at most rounds = {rounds}, got {bands}")
    start = np.log(sqrt_toeplitz(bands))
    if bands == 1:
        return np.ones(1)
    # Falling coefficients keep the zeros of c(x) outside the unit circle, so that C^-1 cannot explode on the way.
    bounds = [(None, 0.0)] * (bands - 1)
    found = minimize(_log_error, np.diff(start), args=(rounds,), jac=True, method="L-BFGS-B", bounds=bounds)
    values = np.exp(np.concatenate([[0.0], np.cumsum(found.x)]))
    return np.asarray(values / np.linalg.norm(values), dtype=np.float64)


def max_participations(rounds: int, min_separation: int) -> int:
    """How often a client can take part whose participations lie at least ``min_separation`` rounds apart."""
    _positive(rounds=rounds, min_separation=min_separation)
    return -(-rounds // min_separation)


def sensitivity(coefficients: ArrayLike, rounds: int, min_separation: int) -> float:
    """L2 sensitivity of C G, in units of clip_norm, to a client that rests between any two participations.

    Participations ``min_separation >= bands`` rounds apart meet orthogonal columns of C, and norms of columns never
    grow from left to right, so the worst client starts in the first round and comes back as soon as it may
    (Choquette-Choo et al. 2023, arXiv 2306.08153). At most sqrt(max_participations) for normalised coefficients.
    Raises ValueError when bands > min_separation: there columns overlap and the sum of their squares is no bound.
    """
    times = max_participations(rounds, min_separation)
    values = _checked(coefficients)[:rounds]
    if len(values) > min_separation:
        raise ValueError(f"bands = {len(values)} must be at most min_separation = {min_separation}")
    squares = np.cumsum(values**2)
    left = rounds - min_separation * np.arange(times)
    return float(np.sqrt(squares[np.minimum(left, len(values)) - 1].sum()))


class StreamingNoise:
    """Rows of C^-1 Z for a banded Toeplitz C, keeping the last bands - 1 rows: x_t = (z_t - sum_j c_j x_(t-j)) / c_0.

    ``coefficients [bands]`` (Choquette-Choo et al. 2023, arXiv 2306.08153; Dvijotham et al. 2024, arXiv 2404.16706).
    Raises ValueError for invalid coefficients.
    """

    def __init__(self, coefficients: ArrayLike) -> None:
        first, *rest = _checked(coefficients).tolist()
        self._first: float = first
        self._rest: list[float] = rest
        self._rows: deque[Tensor] = deque(maxlen=len(rest))  # the newest comes first

    def next(self, draw: Draw) -> Tensor:
        """The noise ``[params]`` of the next round from one ``draw`` of independent standard normals ``[params]``."""
        row = draw().clone()
        for coefficient, earlier in zip(self._rest, self._rows, strict=False):
            row.sub_(earlier, alpha=coefficient)
        row.div_(self._first)
        self._rows.appendleft(row)
        return row.clone()  # the caller may scale it in place

    def state(self) -> Tensor:
        """The last rows ``[min(rounds so far, bands - 1), params]``, the newest first."""
        return torch.stack(list(self._rows)) if self._rows else torch.empty(0, 0)

    def restore(self, state: Tensor) -> None:
        """Go on from a ``state``; raises ValueError if it has more rows than bands - 1."""
        if state.ndim != 2 or len(state) > len(self._rest):
            raise ValueError(f"the state must have at most {len(self._rest)} rows, got {tuple(state.shape)}")
        self._rows = deque((row.clone() for row in state), maxlen=len(self._rest))


# --- the binary tree


def tree_matrix(rounds: int) -> NDArray[np.float64]:
    """The tree's C ``[nodes, rounds]``: a row for every complete dyadic block of rounds, leaves first.

    Its largest column norm is ``tree_sensitivity`` (Kairouz et al. 2021, arXiv 2103.00039). Raises ValueError for
    rounds < 1.
    """
    _positive(rounds=rounds)
    sizes = [2**level for level in range(rounds.bit_length())]
    blocks = [(start, size) for size in sizes for start in range(0, rounds - size + 1, size)]
    t = np.arange(rounds)
    return np.array([(start <= t) & (t < start + size) for start, size in blocks], dtype=np.float64)


def tree_sensitivity(rounds: int) -> float:
    """L2 sensitivity of the tree to one participation, in units of clip_norm: sqrt(levels), levels = ceil(lg(n + 1)).

    k participations may share nodes, so only k * sqrt(levels) bounds them. Raises ValueError for rounds < 1.
    """
    _positive(rounds=rounds)
    return math.sqrt(rounds.bit_length())


def tree_rmse(rounds: int) -> float:
    """As ``prefix_rmse``, for the tree with the full Honaker estimator A C^+ (not ``TreeNoise``), in O(rounds^3)."""
    nodes = tree_matrix(rounds)
    prefixes = np.tri(rounds)
    squares = np.sum(prefixes.T * np.linalg.solve(nodes.T @ nodes, prefixes.T))
    return float(math.sqrt(squares / rounds) * tree_sensitivity(rounds))


def streamed_tree_rmse(rounds: int) -> float:
    """As ``prefix_rmse``, for what ``TreeNoise`` delivers: the prefix of t rounds has a node for each 1 bit of t."""
    nodes = sum(t.bit_count() for t in range(1, rounds + 1))
    return math.sqrt(nodes / rounds) * tree_sensitivity(rounds)


class TreeNoise:
    """Noise whose running sum after t rounds is that of the dyadic blocks which [1, t] splits into, left to right.

    Of the blocks that end at t only the largest is ever used, so C is square, with one draw per round; the noise is
    scaled by ``tree_sensitivity``, so that one participation is worth 1. Memory is O(log rounds) rows (Dwork et al.
    2010; Kairouz et al. 2021, arXiv 2103.00039). Raises ValueError for rounds < 1.
    """

    def __init__(self, rounds: int) -> None:
        self._scale = tree_sensitivity(rounds)
        self._rounds = rounds
        self._done = 0
        self._nodes: list[Tensor] = []  # the blocks of the present prefix; the last is the smallest

    def next(self, draw: Draw) -> Tensor:
        """The noise ``[params]`` of the next round from one ``draw``; raises RuntimeError after ``rounds`` rounds."""
        if self._done >= self._rounds:
            raise RuntimeError(f"the tree has {self._rounds} rounds, and its sensitivity holds for no more")
        node = draw().clone()
        row = node.clone()
        self._done += 1
        while len(self._nodes) >= self._done.bit_count():  # the new block swallows the smaller ones before it
            row.sub_(self._nodes.pop())
        self._nodes.append(node)
        return row.mul_(self._scale)

    def state(self) -> Tensor:
        """``[1 + nodes, params]``: the number of rounds so far, repeated, then the noise of the prefix's blocks."""
        if not self._nodes:
            return torch.empty(0, 0)
        return torch.stack([torch.full_like(self._nodes[0], self._done), *self._nodes])

    def restore(self, state: Tensor) -> None:
        """Go on from a ``state``; raises ValueError if its number of rounds contradicts its rows or the tree."""
        done = int(state[0, 0]) if state.numel() else 0
        if not 0 <= done <= self._rounds or len(state[1:]) != done.bit_count():
            raise ValueError(f"{tuple(state.shape)} is no state of a tree of {self._rounds} rounds after {done}")
        self._done, self._nodes = done, [row.clone() for row in state[1:]]
