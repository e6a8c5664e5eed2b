"""What the sources of images share: scaling by public constants, and examples from images and labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Examples
from fedsim.data.decoded import decoded
from fedsim.data.idx import read_idx
from fedsim.errors import BadInput

CHUNK = 128


@dataclass(frozen=True)
class Scale:
    """Published mean and standard deviation of each channel, of values in [0, 1]; they reveal nothing private."""

    mean: tuple[float, ...]
    standard_deviation: tuple[float, ...]

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Bytes ``[n, channels, height, width]`` as centred and scaled numbers."""
        mean, deviation = (
            np.array(values, np.float32)[:, None, None] * 255 for values in (self.mean, self.standard_deviation)
        )
        features = np.empty(images.shape, np.float32)
        for start in range(0, len(images), CHUNK):  # small enough to stay in a core's cache for both steps
            part = features[start : start + CHUNK]
            np.subtract(images[start : start + CHUNK], mean, out=part)
            part /= deviation
        return features


def idx_examples(name: str, images: Path, labels: Path, scale: Scale) -> Examples:
    """Grey images ``[n, 1, height, width]`` and classes of two IDX files; raises ``BadInput`` for other shapes."""
    classes = read_idx(labels)
    if classes.ndim != 1:
        raise BadInput(f"{labels} holds an array of {classes.ndim} dimensions; labels have 1.")
    features = decoded(name, [images], repr(scale), lambda: scale.apply(_grey(images)))
    return Examples(features, classes.astype(np.int64))


def _grey(file: Path) -> NDArray[Any]:
    images = read_idx(file)
    if images.ndim != 3:
        raise BadInput(f"{file} holds an array of {images.ndim} dimensions; images have 3.")
    return images[:, None]
