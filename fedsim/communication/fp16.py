"""Half precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedsim.communication.base import Compression, Rows, Words
from fedsim.communication.packing import Field, floats
from fedsim.settings import section

LARGEST = torch.finfo(torch.float16).max


@section
@dataclass(frozen=True, kw_only=True)
class Fp16(Compression):
    """Every value in 16 bits (IEEE 754): 11 bits of precision, cut to +-65504, and 0 below 3e-8."""

    kind: Literal["fp16"] = "fp16"

    @property
    def contracts(self) -> bool:
        """Rounded to the nearest, no value is off by more than itself."""
        return True

    def fields(self, size: int) -> tuple[Field, ...]:
        """The values."""
        return (floats(size, 16),)

    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """The rows in half precision; a finite one stays finite."""
        return (rows.clamp(-LARGEST, LARGEST).half(),)

    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """The rows in single precision."""
        return message[0].float()
