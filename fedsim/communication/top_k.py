"""Top-k sparsification (Aji and Heafield 2017, arXiv 1704.05021): only the largest values are sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field as Bounds
from torch import Tensor

from fedsim.communication.base import Compression, Rows, Words
from fedsim.communication.chosen import count_of, largest, position_field, positions
from fedsim.communication.packing import Field, floats
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class TopK(Compression):
    """The ``share`` of values that are largest, and where they are; the others count as zero."""

    kind: Literal["top_k"] = "top_k"
    share: Annotated[float, Bounds(gt=0, le=1)] = 0.01

    @property
    def contracts(self) -> bool:
        """The squared error is at most ``1 - k / size`` of the row's square (Stich et al. 2018, arXiv 1809.07599)."""
        return True

    def fields(self, size: int) -> tuple[Field, ...]:
        """Positions, and the values there."""
        count = count_of(self.share, size)
        return position_field(count, size), floats(count)

    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """Positions (numbers, or marks) and values."""
        size = rows.shape[1]
        count = count_of(self.share, size)
        marked = largest(rows.abs().nan_to_num(), count)
        where = positions(marked, count)
        return marked if position_field(count, size).count == size else where, rows.gather(1, where)

    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """The values in their places."""
        where, values = message
        if position_field(values.shape[1], size).count == size:
            if (where.sum(dim=1) != values.shape[1]).any():
                raise ValueError("there are more or fewer marks than values")
            where = positions(where.bool(), values.shape[1])
        elif (where >= size).any() or (where.diff(dim=1) <= 0).any():
            raise ValueError("the positions do not ascend, or lie outside of the update")
        return torch.zeros(len(values), size, dtype=values.dtype, device=values.device).scatter(1, where, values)
