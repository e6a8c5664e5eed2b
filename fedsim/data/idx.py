"""MNIST in the standard IDX files (LeCun et al. 1998), gzipped or not."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset, Examples
from fedsim.data.files import find_files
from fedsim.errors import BadInput
from fedsim.settings import section

# Published constants of the MNIST training set, so that scaling reveals nothing about a client's data.
MEAN, STANDARD_DEVIATION = 0.1307, 0.3081


@section
@dataclass(frozen=True)
class Mnist:
    """60,000 + 10,000 handwritten digits, 28x28; files in ``path`` or ``$FEDSIM_DATA/mnist``."""

    source: Literal["mnist"] = "mnist"
    path: str | None = None

    def load(self, seed: int) -> Dataset:
        """Images ``[n, 1, 28, 28]`` scaled by public constants, in the published split (the seed is not used)."""
        names = [
            f"{split}-{kind}" for split in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ]
        files = find_files("mnist", self.path, names, "yann.lecun.com/exdb/mnist")
        train_x, train_y, test_x, test_y = (read_idx(file) for file in files)
        return Dataset(_examples(train_x, train_y), _examples(test_x, test_y), tuple(str(digit) for digit in range(10)))


def _examples(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Examples:
    if images.ndim != 3 or labels.ndim != 1:
        raise BadInput(
            f"The IDX files hold arrays of {images.ndim} and {labels.ndim} dimensions; 3 and 1 are expected."
        )
    features = images.astype(np.float32)
    features -= 255 * MEAN
    features /= 255 * STANDARD_DEVIATION
    return Examples(features[:, None], labels.astype(np.int64))


def read_idx(file: Path) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes; raises ``BadInput`` when it is torn or of another kind."""
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file} cannot be read: {error}.") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise BadInput(f"{file} is not an IDX file of unsigned bytes.")
    shape = tuple(int(size) for size in np.frombuffer(raw, ">u4", count=raw[3], offset=4))
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != math.prod(shape):
        raise BadInput(f"{file} announces {math.prod(shape)} values but holds {data.size}: it is torn.")
    return data.reshape(shape)
