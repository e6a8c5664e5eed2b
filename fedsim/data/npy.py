"""Arrays in an npz file or a folder of npy files, memory-mapped where they are not compressed."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedsim.data.files import ARRAY_PART, check_fits
from fedsim.errors import BadInput

_LOCAL_HEADER = 30  # bytes before the name in front of a member of a zip file
_CHUNK = 2**24
LONGEST_REASON = 300  # characters of what the file itself says


@dataclass(frozen=True)
class Archive:
    """An npz file, or a folder of npy files; nothing that is pickled is ever read."""

    path: Path

    def names(self) -> list[str]:
        """Names of the arrays; raises ``BadInput`` when the file is torn."""
        if self.path.is_dir():
            return sorted(file.stem for file in self.path.glob("*.npy"))
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.namelist()
        except Exception as error:  # whatever torn bytes lead the reader to
            raise BadInput(f"{self.path} is not an npz file: {error}.") from error
        return [member.removesuffix(".npy") for member in members if member.endswith(".npy")]

    def array(self, name: str) -> NDArray[Any]:
        """One array, copy-on-write; raises ``BadInput`` when it is absent, torn or of Python objects."""
        names = self.names()
        if name not in names:
            raise BadInput(f'{self.path} has no array "{name}"; it has: {", ".join(names) or "none"}.')
        try:
            if self.path.is_dir():
                with (self.path / f"{name}.npy").open("rb") as content:
                    _header(content)
                return npy.open_memmap(self.path / f"{name}.npy", "c")  # never unpickles
            return self._member(f"{name}.npy")
        except Exception as error:  # whatever torn bytes lead the reader to
            reason = str(error)[:LONGEST_REASON] or type(error).__name__
            raise BadInput(f'The array "{name}" of {self.path} cannot be read: {reason.rstrip(".")}.') from error

    def _member(self, member: str) -> NDArray[Any]:
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(member)
            with archive.open(info) as content:
                shape, fortran, dtype = _header(content)
                if content.tell() + math.prod(shape) * dtype.itemsize != info.file_size:
                    raise ValueError(f"it announces {list(shape)} values of type {dtype} but holds others: it is torn")
                if math.prod(shape) == 0:
                    return np.empty(shape, dtype)
                if info.compress_type != zipfile.ZIP_STORED:
                    check_fits("it", info.file_size, ARRAY_PART)
                    values = np.frombuffer(bytearray(content.read()), dtype)
                    return values.reshape(shape, order="F" if fortran else "C")
                while content.read(_CHUNK):  # to the end, where the checksum is compared
                    pass
                start = info.file_size - math.prod(shape) * dtype.itemsize
            return self._mapped(info.header_offset, start, dtype, shape, fortran)

    def _mapped(self, header: int, start: int, dtype: Any, shape: Any, fortran: bool) -> NDArray[Any]:
        with self.path.open("rb") as raw:
            raw.seek(header)
            local = raw.read(_LOCAL_HEADER)
        names = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        offset = header + _LOCAL_HEADER + names + start
        return np.memmap(self.path, dtype, "c", offset, shape, "F" if fortran else "C")


def _header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(content)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is of the unknown version {version}")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(content)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never read; save plain numbers")
    if dtype.itemsize == 0:  # any number of these takes no room, and for ever to go through
        raise ValueError(f"it holds values of type {dtype}, which are none")
    return shape, fortran, dtype
