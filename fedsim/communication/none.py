"""No compression: four bytes a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fedsim.communication.base import Compression, Rows, Words
from fedsim.communication.packing import Field, floats
from fedsim.settings import section


@section
@dataclass(frozen=True, kw_only=True)
class Uncompressed(Compression):
    """Every value as it is, in 32 bits."""

    kind: Literal["none"] = "none"

    def fields(self, size: int) -> tuple[Field, ...]:
        """The values."""
        return (floats(size),)

    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """The rows themselves."""
        return (rows,)

    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """The rows themselves."""
        return message[0]
