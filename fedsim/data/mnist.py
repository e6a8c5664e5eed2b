"""MNIST (LeCun et al. 1998), with the writer of every image where QMNIST's labels lie beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset, Examples
from fedsim.data.files import existing, find_files
from fedsim.data.idx import read_idx
from fedsim.data.images import Scale, idx_examples
from fedsim.data.published import Published, remotes
from fedsim.errors import BadInput
from fedsim.settings import section

MEAN, STANDARD_DEVIATION = 0.1307, 0.3081
FILES = [f"{split}-{kind}" for split in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]
WRITERS = ("qmnist-train-labels-idx2-int", "qmnist-test-labels-idx2-int")
WRITER = 2  # the column of QMNIST's labels (Yadav and Bottou 2019, arXiv 1905.10498); column 0 is the digit

IMAGES = remotes(
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    {
        "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)
OWNERS = remotes(
    "https://raw.githubusercontent.com/facebookresearch/qmnist/master",
    {
        "qmnist-train-labels-idx2-int.gz": "bb1b6e1ec7b04fd5696f1ed50b5f58f8ef195118edd5c93c81783df9740b8ac5",
        "qmnist-test-labels-idx2-int.gz": "92d0ccb8c25f9c6534270fb4be7e1d24a1c6d315edfc8a638bfbd31c70f362dd",
    },
)


@section
@dataclass(frozen=True)
class Mnist:
    """60,000 + 10,000 handwritten digits, 28x28; natural owners are their writers (QMNIST's label files)."""

    source: Literal["mnist"] = "mnist"
    path: str | None = None
    published: ClassVar[Published] = Published("yann.lecun.com/exdb/mnist", IMAGES + OWNERS)

    def load(self, seed: int) -> Dataset:
        """Images ``[n, 1, 28, 28]`` scaled by public constants, in the published split (the seed is not used)."""
        files = find_files("mnist", self.path, FILES, self.published)
        scale = Scale((MEAN,), (STANDARD_DEVIATION,))
        train, test = (
            idx_examples(f"mnist-{files[i].name.split('-')[0]}", files[i], files[i + 1], scale) for i in (0, 2)
        )
        train, test, owners = _with_writers(files[0].parent, train, test)
        return Dataset(train, test, tuple(str(digit) for digit in range(10)), owners=owners)


def _with_writers(folder: Path, train: Examples, test: Examples) -> tuple[Examples, Examples, tuple[str, ...]]:
    """The examples with their owners, writers of training images first, if QMNIST's two files are in the folder."""
    files = [existing(folder / name) for name in WRITERS]
    if not any(files):
        return train, test, ()
    columns = []
    for file, name, split in zip(files, WRITERS, (train, test), strict=True):
        if file is None:
            raise BadInput(f"{folder} lacks {name} (plain, .gz or .xz); leave out the other qmnist file to do without.")
        columns.append(_writers(file, split.labels))
    numbers, owners = _numbered(columns)
    names = tuple(f"writer {number}" for number in numbers)
    return replace(train, owners=owners[0]), replace(test, owners=owners[1]), names


def _writers(file: Path, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The writer of each image; QMNIST has more test rows than MNIST, whose images come first."""
    rows = read_idx(file, ">i4")
    if rows.ndim != 2 or rows.shape[1] <= WRITER or len(rows) < len(labels):
        raise BadInput(f"{file} holds an array of {list(rows.shape)}; {len(labels)} rows of 8 columns are expected.")
    wrong = rows[: len(labels), 0] != labels
    if wrong.any():
        raise BadInput(f"{file} is not of these images: the digit of image {int(wrong.argmax())} differs.")
    return rows[: len(labels), WRITER].astype(np.int64)


def _numbered(columns: list[NDArray[np.int64]]) -> tuple[list[Any], list[NDArray[np.int64]]]:
    """The distinct values, those of the first column first; every column as positions among them."""
    first = np.unique(columns[0])
    values = np.concatenate([first, *(np.setdiff1d(column, first) for column in columns[1:])])
    order = np.argsort(values)
    return values.tolist(), [order[np.searchsorted(values, column, sorter=order)] for column in columns]
