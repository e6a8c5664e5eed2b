"""The IDX format of MNIST and its kin (LeCun et al. 1998)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.files import read_whole
from fedsim.errors import BadInput

# What the third byte of a file says about its values.
CODES = {"u1": (b"\x08", "unsigned bytes"), ">i4": (b"\x0c", "32-bit integers")}


def read_idx(file: Path, dtype: Literal["u1", ">i4"] = "u1") -> NDArray[Any]:
    """Read one IDX file of unsigned bytes or 32-bit integers; raises ``BadInput`` when it is torn or another."""
    raw = read_whole(file)
    code, kind = CODES[dtype]
    if len(raw) < 4 or raw[:3] != b"\0\0" + code or len(raw) < 4 + 4 * raw[3]:
        raise BadInput(f"{file} is not an IDX file of {kind}.")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    values, rest = divmod(len(raw) - 4 - 4 * raw[3], np.dtype(dtype).itemsize)
    if values != math.prod(shape) or rest:
        raise BadInput(f"{file} announces {math.prod(shape)} values but holds {values}: it is torn.")
    return np.frombuffer(raw, dtype, offset=4 + 4 * raw[3]).reshape(shape)
