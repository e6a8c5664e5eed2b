"""Which of a row's values are sent: so many of the largest, ties to the first."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fedsim.communication.packing import Field, wholes


def count_of(share: float, size: int) -> int:
    """How many of ``size`` values are sent: the share, rounded, and one at least."""
    return max(1, round(share * size))


def largest(scores: Tensor, count: int) -> Bool[Tensor, "clients size"]:
    """Marks the ``count`` largest scores of each row, the first of equal ones; no score may be NaN."""
    least = scores.topk(count, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
    above, equal = scores > least, scores == least
    wanted = count - above.sum(dim=1, keepdim=True)
    # Running counts only where there are more equal scores than places: they take longer than all the rest.
    if (equal.sum(dim=1, keepdim=True) > wanted).any():
        equal &= equal.cumsum(dim=1, dtype=torch.int32) <= wanted
    return above | equal


def positions(marked: Bool[Tensor, "clients size"], count: int) -> Int[Tensor, "clients count"]:
    """Ascending positions of the marked values, of which each row has ``count``."""
    return marked.nonzero()[:, 1].reshape(len(marked), count)


def position_field(count: int, size: int) -> Field:
    """Positions as numbers, or as one bit a value where that is shorter."""
    each = max(1, (size - 1).bit_length())
    return wholes(count, each) if count * each < size else wholes(size, 1)
