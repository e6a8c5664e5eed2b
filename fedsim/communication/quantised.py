"""Quantisation: every value as one of the evenly spaced levels between minus and plus a scale of its row."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.communication.base import Rows

Scales = Float[Tensor, "clients 1"]


def quantised(rows: Rows, scales: Scales, levels: int, chances: Rows | None) -> Tensor:
    """Codes from 0 to ``2 levels`` of values from ``-scale`` to ``scale``.

    With ``chances``, uniform in [0, 1), a value between two levels becomes one of them at random, so that its mean is
    itself; without, it becomes the nearest.
    """
    heights = torch.where(scales > 0, rows.abs() / scales, 0.0).clamp(max=1.0) * levels
    steps = heights.round() if chances is None else heights.floor() + (chances < heights.frac())
    return (steps.clamp(max=levels) * rows.sign()).nan_to_num().to(torch.int32) + levels


def dequantised(codes: Tensor, scales: Scales, levels: int) -> Rows:
    """Values of codes; all of a row are NaN where its scale is. Raises ``ValueError`` for codes that are none."""
    if (codes > 2 * levels).any():
        raise ValueError(f"a code is above {2 * levels}")
    return (codes - levels).float() / levels * scales
