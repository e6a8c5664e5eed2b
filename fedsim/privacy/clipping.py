"""Clipping: the one place that decides how much a unit may contribute."""

from __future__ import annotations

import torch
from torch import Tensor

# A factor computed in float64 is applied in float32; this keeps the rounded result's norm below the clip norm.
SAFETY = 1.0 + 1e-6


def clip_factors(norms: Tensor, clip_norm: float) -> Tensor:
    """Factors in [0, 1] that bring vectors of these norms (float64) to ``clip_norm``; 0 for NaN or infinite ones."""
    factors = (clip_norm / (norms * SAFETY)).clamp(max=1.0)
    return torch.where(torch.isfinite(norms), factors, torch.zeros_like(factors))


def row_norms(rows: Tensor) -> Tensor:
    """Euclidean norms over the last dimension, accumulated in float64, of ``[..., params]``."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    return norms


def clip_rows(rows: Tensor, clip_norm: float) -> tuple[Tensor, Tensor]:
    """Rows ``[n, params]`` clipped to ``clip_norm``, those that are NaN or infinite zero; and their norms before."""
    norms = row_norms(rows)
    return scale_rows(rows, clip_factors(norms, clip_norm), norms), norms


def centred_count(norms: Tensor, clip_norm: float) -> float:
    """+1/2 for each vector that is not longer than ``clip_norm``, else -1/2."""
    return int((norms <= clip_norm).sum()) - len(norms) / 2


def add_clipped(total: Tensor, rows: Tensor, clip_norm: float, weights: Tensor) -> Tensor:
    """Add rows ``[n, params]`` clipped to ``clip_norm``, times ``weights`` ``[n]``, to ``total`` in float64.

    Returns the rows' norms before ``[n]``; a row that is NaN or infinite adds nothing.
    """
    norms = row_norms(rows)
    total += weights.double() @ scale_rows(rows, clip_factors(norms, clip_norm), norms).double()
    return norms


def scale_rows(rows: Tensor, factors: Tensor, norms: Tensor) -> Tensor:
    """``rows * factors``, but a row of non-finite norm is exactly zero (0 times NaN would be NaN)."""
    # In two steps: a factor below 1e-38 is no normal float32 and would be rounded by far too much.
    root = factors.sqrt().to(rows.dtype).unsqueeze(-1)
    scaled = rows * root * root
    return torch.where(torch.isfinite(norms).unsqueeze(-1), scaled, torch.zeros_like(scaled))


def clipped_sums(
    gradients: Tensor, mask: Tensor, clip_norm: float, sizes: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Per-example gradients ``[clients, batch, params]`` clipped and summed over the real ones (``mask``).

    With ``sizes`` (of the L parameter tensors) each part is clipped to ``clip_norm / sqrt(L)``. Also the centred
    count ``[clients]`` of the real examples: +1/2 for each that is not longer than ``clip_norm``, else -1/2.
    """
    norms = row_norms(gradients)
    finite = torch.isfinite(norms)
    if not bool(finite.all()):
        gradients = torch.where(finite.unsqueeze(-1), gradients, torch.zeros_like(gradients))
    counts = (((norms <= clip_norm).double() - 0.5) * mask).sum(dim=-1)
    if sizes is None:
        return _weighted(gradients, clip_factors(norms, clip_norm) * mask), counts
    parts = gradients.split(sizes, dim=-1)
    share = clip_norm / len(sizes) ** 0.5
    sums = [_weighted(part, clip_factors(row_norms(part), share) * mask) for part in parts]
    return torch.cat(sums, dim=-1), counts


def _weighted(gradients: Tensor, factors: Tensor) -> Tensor:
    return torch.einsum("cb,cbp->cp", narrowed(factors, gradients.dtype), gradients)


def narrowed(factors: Tensor, dtype: torch.dtype) -> Tensor:
    """Factors in a smaller type; one too small for it becomes 0, as it would be rounded by far too much."""
    return torch.where(factors >= torch.finfo(dtype).tiny, factors, torch.zeros_like(factors)).to(dtype)
