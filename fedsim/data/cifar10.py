"""CIFAR-10 (Krizhevsky 2009): the published python batches, or an npz."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset, Examples
from fedsim.data.decoded import decoded
from fedsim.data.files import find_files
from fedsim.data.images import Scale
from fedsim.data.npy import Archive
from fedsim.data.published import Published
from fedsim.data.unpickling import read_pickle
from fedsim.errors import BadInput
from fedsim.settings import section

SCALE = Scale((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
FOLDER = "cifar-10-batches-py"  # as the published archive unpacks
OTHERS = [[f"{FOLDER}/{name}" for name in BATCHES], ["cifar10.npz"], ["cifar10_subset.npz"]]


@section
@dataclass(frozen=True)
class Cifar10:
    """50,000 + 10,000 colour pictures of ten kinds of things, 32x32; python batches, or an npz of all or some."""

    source: Literal["cifar10"] = "cifar10"
    path: str | None = None
    published: ClassVar[Published] = Published("www.cs.toronto.edu/~kriz/cifar.html (the python version)")

    def load(self, seed: int) -> Dataset:
        """Images ``[n, 3, 32, 32]`` scaled by public constants, in the published split (the seed is not used)."""
        files = find_files(self.source, self.path, BATCHES, self.published, OTHERS)
        parts = _Npz(files[0]) if files[0].suffix == ".npz" else _Batches(tuple(files))
        train, test = (_examples(split, files, parts) for split in ("train", "test"))
        found = files[0].name if len(files) == 1 else "the published batches"
        note = f"CIFAR-10 from {found}: {len(train)} + {len(test)} images."
        return Dataset(train, test, NAMES, notes=(note,))


def _examples(split: str, files: list[Path], parts: _Npz | _Batches) -> Examples:
    features = decoded(f"cifar10-{split}", files, repr(SCALE), lambda: SCALE.apply(parts.images(split)))
    return Examples(features, parts.labels(split).astype(np.int64))


@dataclass(frozen=True)
class _Npz:
    file: Path

    def images(self, split: str) -> NDArray[np.uint8]:
        """``[n, 32, 32, 3]`` as stored, channels first as returned."""
        images = Archive(self.file).array(f"x_{split}")
        _check(self.file, images, (32, 32, 3))
        return images.transpose(0, 3, 1, 2)

    def labels(self, split: str) -> NDArray[Any]:
        labels = Archive(self.file).array(f"y_{split}")
        return _whole(self.file, labels.reshape(len(labels)) if labels.ndim == 2 and labels.shape[1] == 1 else labels)


@dataclass(frozen=True)
class _Batches:
    files: tuple[Path, ...]

    def images(self, split: str) -> NDArray[np.uint8]:
        """``[n, 3072]`` as stored, red, green and blue one after the other."""
        return np.concatenate([_batch_images(file, self.tables[file]) for file in self._of(split)])

    def labels(self, split: str) -> NDArray[Any]:
        return np.concatenate([_batch_labels(file, self.tables[file]) for file in self._of(split)])

    @cached_property
    def tables(self) -> dict[Path, dict[str, Any]]:
        return {file: read_pickle(file) for file in self.files}

    def _of(self, split: str) -> tuple[Path, ...]:
        return self.files[:-1] if split == "train" else self.files[-1:]


def _batch_images(file: Path, table: dict[str, Any]) -> NDArray[np.uint8]:
    images = table.get("data")
    if not isinstance(images, np.ndarray):
        raise BadInput(f'{file} has no array "data".')
    _check(file, images, (3072,))
    return images.reshape(-1, 3, 32, 32)


def _batch_labels(file: Path, table: dict[str, Any]) -> NDArray[Any]:
    labels = table.get("labels")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 10 for label in labels):
        raise BadInput(f'{file} has no list "labels" of classes 0 to 9.')
    return np.array(labels, np.int64)


def _check(file: Path, images: NDArray[Any], shape: tuple[int, ...]) -> None:
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise BadInput(
            f"{file} holds images {list(images.shape[1:])} of type {images.dtype}; {list(shape)} of uint8 are expected."
        )


def _whole(file: Path, labels: NDArray[Any]) -> NDArray[Any]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise BadInput(f"{file} holds labels {list(labels.shape)} of type {labels.dtype}; classes [n] are expected.")
    return labels
