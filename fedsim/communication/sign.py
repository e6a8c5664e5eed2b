"""One bit a value (Seide et al. 2014), scaled and with error feedback as in Karimireddy et al. 2019 (1901.09847)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsim.communication.base import Compression, Rows, Words
from fedsim.communication.packing import Field, floats, wholes
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Sign(Compression):
    """Every value in one bit: its sign, times the update's mean magnitude; 0 counts as positive."""

    kind: Literal["sign"] = "sign"

    @property
    def contracts(self) -> bool:
        """The squared error is ``1 - |x|_1^2 / (size |x|^2)`` of ``|x|^2`` (Karimireddy et al. 2019, lemma 8)."""
        return True

    def fields(self, size: int) -> tuple[Field, ...]:
        """The mean magnitude, and the signs."""
        return floats(1), wholes(size, 1)

    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """Scales and signs."""
        scales = rows.abs().mean(dim=1, keepdim=True, dtype=torch.float64)
        return scales.to(rows.dtype), rows >= 0

    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """Plus or minus the scale."""
        scales, positive = message
        return torch.where(positive.bool(), scales, -scales)
