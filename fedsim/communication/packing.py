"""Messages of fixed size: fields of floats and of small whole numbers, packed without gaps between their bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Field:
    """``count`` values of ``bits`` bits each: floats of 16 or 32, or whole numbers from 0 on."""

    count: int
    bits: int
    kind: Literal["float", "whole"]

    @property
    def bytes(self) -> int:
        """Length in a message, filled up to whole bytes."""
        return -(-self.count * self.bits // 8)


def floats(count: int, bits: int = 32) -> Field:
    """A field of floats."""
    return Field(count, bits, "float")


def wholes(count: int, bits: int) -> Field:
    """A field of whole numbers below ``2^bits``."""
    return Field(count, bits, "whole")


def pack(fields: tuple[Field, ...], values: tuple[Tensor, ...]) -> bytes:
    """One message: the fields' values, each ``[count]``, one field after the other, little-endian."""
    return b"".join(_packed(field, value.cpu().numpy()) for field, value in zip(fields, values, strict=True))


def unpack(fields: tuple[Field, ...], message: bytes) -> tuple[Tensor, ...]:
    """What ``pack`` was given; raises ``ValueError`` for a message of another length."""
    expected = sum(field.bytes for field in fields)
    if len(message) != expected:
        raise ValueError(f"the message has {len(message)} bytes; {expected} are expected")
    ends = np.cumsum([field.bytes for field in fields]).tolist()
    return tuple(_unpacked(field, message[end - field.bytes : end]) for field, end in zip(fields, ends, strict=True))


def _packed(field: Field, values: NDArray[np.generic]) -> bytes:
    if field.kind == "float":
        return values.astype(f"<f{field.bits // 8}").tobytes()
    spread = (values.astype(np.int64)[:, None] >> np.arange(field.bits)) & 1
    return np.packbits(spread.astype(np.uint8), bitorder="little").tobytes()


def _unpacked(field: Field, part: bytes) -> Tensor:
    if field.kind == "float":
        return torch.from_numpy(np.frombuffer(part, f"<f{field.bits // 8}").astype(f"=f{field.bits // 8}"))
    spread = np.unpackbits(np.frombuffer(part, np.uint8), count=field.count * field.bits, bitorder="little")
    places = spread.reshape(field.count, field.bits).astype(np.int64) << np.arange(field.bits)
    return torch.from_numpy(places.sum(axis=1))
