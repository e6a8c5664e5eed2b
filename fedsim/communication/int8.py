"""Whole numbers of 8 bits, and one scale for an update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsim.communication.base import Compression, Rows, Words, uniforms
from fedsim.communication.packing import Field, floats, wholes
from fedsim.communication.quantised import dequantised, quantised
from fedsim.settings import section

LEVELS = 127


@section
@dataclass(frozen=True, kw_only=True)
class Int8(Compression):
    """Every value in 8 bits: one of 255 levels up to the update's largest value.

    ``rounding`` "stochastic" is unbiased; "nearest" is off by half as much at most, and can have error feedback.
    """

    kind: Literal["int8"] = "int8"
    rounding: Literal["stochastic", "nearest"] = "stochastic"

    @property
    def contracts(self) -> bool:
        """Rounded to the nearest, no value is off by more than itself, and the largest is exact."""
        return self.rounding == "nearest"

    def words(self, size: int) -> int:
        """One for each value that is rounded at random."""
        return 0 if self.rounding == "nearest" else size

    def fields(self, size: int) -> tuple[Field, ...]:
        """The largest value, and the levels."""
        return floats(1), wholes(size, 8)

    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """Scales and codes."""
        largest = rows.abs().amax(dim=1, keepdim=True)
        return largest, quantised(rows, largest, LEVELS, None if self.rounding == "nearest" else uniforms(words))

    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """Levels times their scale."""
        return dequantised(message[1], message[0], LEVELS)
