"""Lengths, distances and inner products in float64, a part of the parameters at a time, which stays in the cache."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Of each update so many values at a time.
CHUNK_VALUES = 1 << 14


def lengths(updates: Float[Tensor, "clients params"]) -> Float[Tensor, " clients"]:
    """Each update's Euclidean norm."""
    squares = torch.zeros(len(updates), dtype=torch.float64, device=updates.device)
    for part in updates.split(CHUNK_VALUES, dim=1):
        squares += torch.linalg.vector_norm(part, dim=1, dtype=torch.float64).square()
    return squares.sqrt()


def distances_from(
    point: Float[Tensor, " params"], updates: Float[Tensor, "clients params"]
) -> Float[Tensor, " clients"]:
    """Each update's distance from a point."""
    squares = torch.zeros(len(updates), dtype=torch.float64, device=updates.device)
    for part, here in zip(updates.split(CHUNK_VALUES, dim=1), point.split(CHUNK_VALUES), strict=True):
        squares += torch.linalg.vector_norm(part - here, dim=1, dtype=torch.float64).square()
    return squares.sqrt()


def products(point: Float[Tensor, " params"], updates: Float[Tensor, "clients params"]) -> Float[Tensor, " clients"]:
    """Each update's inner product with a vector."""
    total = torch.zeros(len(updates), dtype=torch.float64, device=updates.device)
    for part, here in zip(updates.split(CHUNK_VALUES, dim=1), point.split(CHUNK_VALUES), strict=True):
        total += part.double() @ here.double()
    return total
