"""Reading what came in a message: strictly, and at no more cost than its own size, whatever it claims."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

MOST_TEXT = 1 << 20
SHOWN = 300


def npy_array(data: bytes, dtype: type, dimensions: int) -> NDArray[Any]:
    """The array in npy bytes; raises ``ValueError`` where they hold anything else, and nothing is ever unpickled.

    NumPy's own reader makes room for whatever shape is claimed, and takes archives and pickles for arrays too.
    """
    content = io.BytesIO(data)
    try:
        shape, fortran, found = _header(content)
    except Exception as error:  # whatever bytes made to be read wrongly lead the reader to
        raise ValueError(f"no array can be read: {str(error) or type(error).__name__}") from error
    if found != dtype or len(shape) != dimensions or any(size < 0 for size in shape):
        raise ValueError(f"{found} of shape {shape}; {np.dtype(dtype)} of {dimensions} dimension(s) is expected")
    if content.tell() + math.prod(shape) * found.itemsize != len(data):
        raise ValueError(f"{found} of shape {shape} is claimed, and other bytes follow")
    values = np.frombuffer(bytearray(data), found, math.prod(shape), content.tell())
    return values.reshape(shape, order="F" if fortran else "C")


def _header(content: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    return readers[npy.read_magic(content)](content)


def json_of(text: str) -> Any:
    """What a JSON text says; raises ``ValueError`` for every text that says nothing, however it is made."""
    if len(text) > MOST_TEXT:
        raise ValueError(f"a text of {len(text)} characters")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def integer(record: Mapping[str, Any], key: str) -> int:
    """A whole number of 64 bits; raises ``KeyError`` or ``ValueError``."""
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError(f"{key} is not a whole number")
    return value


def real(record: Mapping[str, Any], key: str) -> float:
    """A finite number; raises ``KeyError`` or ``ValueError``."""
    value = record[key] if isinstance(record[key], float) else integer(record, key)
    if not math.isfinite(value):
        raise ValueError(f"{key} is not a finite number")
    return float(value)


def text(record: Mapping[str, Any], key: str) -> str:
    """A text of at most ``MOST_TEXT`` characters; raises ``KeyError`` or ``ValueError``."""
    value = record[key]
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise ValueError(f"{key} is not text, or too long")
    return value


def only(record: Mapping[str, Any], needed: set[str], possible: frozenset[str] = frozenset()) -> None:
    """Raise ``ValueError`` where fields are missing, or there are others than are ``needed`` and ``possible``."""
    if missing := needed - set(record):
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    if others := set(record) - needed - possible:
        raise ValueError(f"{printable(', '.join(sorted(others)))} is not known")


def printable(words: str) -> str:
    """What somebody else wrote, fit for a log and a terminal: one line of at most 300 characters."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in words[: SHOWN + 1])
    return shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 3]}..."
