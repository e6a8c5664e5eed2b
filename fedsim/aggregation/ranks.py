"""Order statistics of the clients' values of each parameter."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

# So many parameters are sorted at a time: their values stay in the cache.
CHUNK_PARAMS = 1 << 11


def sorted_values(updates: Float[Tensor, "clients params"]) -> Iterator[tuple[slice, Tensor]]:
    """The clients' values of each parameter in order, ``[part, clients]`` for one slice of the parameters at a time."""
    for start in range(0, updates.shape[1], CHUNK_PARAMS):
        part = slice(start, start + CHUNK_PARAMS)
        # The first copy makes torch take its fast way for the second, which turns the part.
        values = updates[:, part].contiguous().t().contiguous()
        if values.device.type == "cpu":  # NumPy sorts short rows by vector instructions, four times as fast as torch
            values.numpy().sort(axis=1)
        else:
            values = values.sort(dim=1).values
        yield part, values
