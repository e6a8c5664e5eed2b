"""Random masks (Konecny et al. 2016, arXiv 1610.05492): values at random places, and the seed of the places."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Int
from pydantic import Field as Bounds
from torch import Tensor

from fedsim.communication.base import Compression, Rows, Words
from fedsim.communication.chosen import count_of, largest, positions
from fedsim.communication.packing import Field, floats, wholes
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream
from fedsim.settings import section

# Everybody knows this key: it makes places of a seed, which is in the message.
PUBLIC = Keystream(hashlib.sha256(b"fedsim.communication.random_k").digest(), 0)


@section
@dataclass(frozen=True, kw_only=True)
class RandomK(Compression):
    """A ``share`` of values at random places; with ``unbiased`` they are scaled up by one over the share.

    Only without the scaling can it have error feedback.
    """

    kind: Literal["random_k"] = "random_k"
    share: Annotated[float, Bounds(gt=0, le=1)] = 0.01
    unbiased: bool = True

    @property
    def contracts(self) -> bool:
        """Unscaled, the squared error is ``1 - k / size`` of the row's square on average (Stich et al. 2018)."""
        return not self.unbiased

    def words(self, size: int) -> int:
        """The seed."""
        return 1

    def fields(self, size: int) -> tuple[Field, ...]:
        """The seed, and the values at its places."""
        return wholes(1, 32), floats(count_of(self.share, size))

    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """Seeds and values."""
        size = rows.shape[1]
        return words, rows.gather(1, places(words[:, 0], count_of(self.share, size), size))

    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """The values in the seed's places."""
        seeds, values = message
        where = places(seeds[:, 0], values.shape[1], size)
        scaled = values * (size / values.shape[1]) if self.unbiased else values
        return torch.zeros(len(values), size, dtype=values.dtype, device=values.device).scatter(1, where, scaled)


def places(seeds: Int[Tensor, " clients"], count: int, size: int) -> Int[Tensor, "clients count"]:
    """Ascending places ``[clients, count]`` out of ``size``: those of the seed's largest words."""
    return positions(largest(PUBLIC.bits(Stream.COMPRESSION, seeds, 0, size), count), count)
