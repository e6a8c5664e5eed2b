"""What every compression has: a message of fixed size, and what the server makes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedsim.communication.packing import Field, pack, unpack

Rows = Float[Tensor, "clients size"]
Words = Int[Tensor, "clients words"]


class Compression(ABC):
    """Turns vectors into messages whose size depends on the vector's length alone, never on what is in it.

    A row that is NaN or infinite anywhere arrives as one that is not finite, so that the server counts it.
    """

    kind: str

    @property
    def contracts(self) -> bool:
        """Whether what is lost is shorter than what was to be sent, always or on average: error feedback needs it."""
        return False

    def words(self, size: int) -> int:
        """Random words of 32 bits that one message of ``size`` values takes."""
        return 0

    @abstractmethod
    def fields(self, size: int) -> tuple[Field, ...]:
        """What a message of ``size`` values consists of."""

    @abstractmethod
    def message(self, rows: Rows, words: Words) -> tuple[Tensor, ...]:
        """The fields' values ``[clients, count]``; ``words`` are random, uniform over all int32."""

    @abstractmethod
    def values(self, message: tuple[Tensor, ...], size: int) -> Rows:
        """What the server makes of messages; raises ``ValueError`` where no client can have sent one."""

    def bytes_of(self, size: int) -> int:
        """Bytes of one message."""
        return sum(field.bytes for field in self.fields(size))

    def restored(self, updates: Rows, words: Words) -> Rows:
        """What the server makes of the updates, each compressed with its own random words."""
        return self.values(self.message(_all_or_nan(updates), words), updates.shape[1])

    def encode(self, row: Float[Tensor, " size"], words: Int[Tensor, " words"]) -> bytes:
        """One client's message."""
        message = self.message(_all_or_nan(row[None]), words[None])
        return pack(self.fields(len(row)), tuple(part[0] for part in message))

    def decode(self, message: bytes, size: int) -> Float[Tensor, " size"]:
        """What the server makes of one message; raises ``ValueError`` where no client can have sent it."""
        parts = unpack(self.fields(size), message)
        return self.values(tuple(part[None] for part in parts), size)[0]


def uniforms(words: Words) -> Rows:
    """Multiples of 2^-24 in [0, 1), so that ``uniform < p`` has probability p to within 2^-24."""
    return ((words >> 8) & 0xFFFFFF).float() * 2.0**-24


def _all_or_nan(rows: Rows) -> Rows:
    """Rows that are not finite somewhere become NaN everywhere: a message may not hold the value that is not."""
    return torch.where(torch.isfinite(rows).all(dim=1, keepdim=True), rows, torch.nan)
