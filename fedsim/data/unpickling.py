"""A pickle of arrays and plain values, read without ever running what it names.

A pickle is a program: it may name any function and have it called. Here the few names that arrays need stand for
inert classes of this file, every other name is refused, and the arrays are made of their bytes at the end.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.files import read_whole
from fedsim.errors import BadInput

LONGEST_REASON = 200  # characters of what the file itself says
DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "b1"}


class _Dtype:
    """Stands for ``numpy.dtype``."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = _text(name), "="

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def real(self) -> np.dtype[Any]:
        if self.name not in DTYPES or self.order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"it holds values of type {self.name!r}")
        return np.dtype(("=" if self.order == "|" else self.order) + self.name)


class _Array:
    """Stands for ``numpy.ndarray`` and for the function that makes an empty one."""

    def __init__(self, *_: Any) -> None:
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def real(self) -> NDArray[Any]:
        _, shape, dtype, fortran, raw = self.state
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(raw, bytes) or not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("it holds an array without values")
        return np.frombuffer(raw, dtype.real()).reshape(shape, order="F" if fortran else "C")


class _Latin:
    """Stands for ``codecs.encode``, by which Python 3 writes bytes for Python 2."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        return text.encode("latin-1")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


# Classes with a ``__setstate__`` only: a pickle can set nothing on these.
_NAMES = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("_codecs", "encode"): _Latin,
}


class _Reader(pickle._Unpickler):  # in Python: the one in C reserves as much memory as a torn file tells it to
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no table of arrays needs")
        return _NAMES[module, name]

    def get_extension(self, code: int) -> None:  # a short number for a name
        raise pickle.UnpicklingError("it names a registered extension, which no table of arrays needs")


def read_pickle(file: Path) -> dict[str, Any]:
    """A pickled table of arrays, numbers, texts and lists of them, by name.

    Raises ``BadInput`` when the file is torn, is no such table, or names anything else; nothing in it is run.
    """
    raw = read_whole(file)
    try:
        table = _Reader(io.BytesIO(raw), encoding="latin-1").load()
        return {_text(key): value.real() if isinstance(value, _Array) else value for key, value in table.items()}
    except Exception as error:  # whatever torn bytes lead the reader to
        reason = str(error)[:LONGEST_REASON] or type(error).__name__
        raise BadInput(f"{file} is not a pickled table of arrays: {reason}.") from error


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise pickle.UnpicklingError(f"it has a {type(value).__name__} where a name belongs")
    return value
