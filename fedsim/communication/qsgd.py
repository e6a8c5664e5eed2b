"""QSGD (Alistarh et al. 2017, arXiv 1610.02132): few levels up to the update's norm, rounded at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field as Bounds
from torch import Tensor

from fedsim.communication.base import Compression, Rows, Words, uniforms
from fedsim.communication.packing import Field, floats, wholes
from fedsim.communication.quantised import dequantised, quantised
from fedsim.privacy.clipping import row_norms
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Qsgd(Compression):
    """Every value in few ``bits``: a sign and one of ``2^(bits - 1) - 1`` levels of the update's norm; unbiased.

    The paper's code is shorter where many levels are zero, but its length tells of the update; here it is fixed.
    """

    kind: Literal["qsgd"] = "qsgd"
    bits: Annotated[int, Bounds(ge=2, le=16)] = 4

    @property
    def levels(self) -> int:
        """The paper's s."""
        return (1 << (self.bits - 1)) - 1

    def words(self, size: int) -> int:
        """One for each value."""
        return size

    def fields(self, size: int) -> tuple[Field, ...]:
        """The norm, and the levels with their signs."""
        return floats(1), wholes(size, self.bits)

    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """Norms and codes."""
        norms = row_norms(rows)[:, None].to(rows.dtype)
        return norms, quantised(rows, norms, self.levels, uniforms(words))

    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """Levels times the norm."""
        return dequantised(message[1], message[0], self.levels)
