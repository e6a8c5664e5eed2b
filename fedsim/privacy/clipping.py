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


def clip_rows(rows: Tensor, clip_norm: float) -> tuple[Tensor, int]:
    """Rows ``[n, params]`` clipped to ``clip_norm``, NaN or infinite ones made zero; also how many those were."""
    norms = row_norms(rows)
    factors = clip_factors(norms, clip_norm)
    return scale_rows(rows, factors, norms), int((~torch.isfinite(norms)).sum())


def scale_rows(rows: Tensor, factors: Tensor, norms: Tensor) -> Tensor:
    """``rows * factors``, but a row of non-finite norm is exactly zero (0 times NaN would be NaN)."""
    scaled = rows * factors.to(rows.dtype).unsqueeze(-1)
    return torch.where(torch.isfinite(norms).unsqueeze(-1), scaled, torch.zeros_like(scaled))


def clipped_sums(gradients: Tensor, mask: Tensor, clip_norm: float) -> Tensor:
    """Per-example gradients ``[clients, batch, params]`` clipped and summed over the real ones (``mask``)."""
    norms = row_norms(gradients)
    finite = torch.isfinite(norms)
    if not bool(finite.all()):
        gradients = torch.where(finite.unsqueeze(-1), gradients, torch.zeros_like(gradients))
    factors = clip_factors(norms, clip_norm) * mask
    return torch.einsum("cb,cbp->cp", factors.to(gradients.dtype), gradients)
