"""A data set out of plain arrays: what the sources of arrays share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset, Examples, Kind
from fedsim.data.splitting import held_out
from fedsim.errors import BadInput

MOST_CLASSES = 10_000  # that are counted off the labels; more must be declared


@dataclass(frozen=True)
class Arrays:
    """Features ``[n, ...]``, labels ``[n]`` or ``[n, m]`` and, if there are any, owners ``[n]``, as they were found."""

    features: NDArray[Any]
    labels: NDArray[Any]
    owners: NDArray[Any] | None = None

    def check(self, where: str) -> None:
        """Raise ``BadInput`` unless all are of one length that is not zero and of types that can be used."""
        if self.features.ndim == 0 or self.labels.ndim == 0 or self.features.size == 0 or self.labels.size == 0:
            raise BadInput(f"{where}: features {self.features.shape} or labels {self.labels.shape} are empty.")
        lengths = [len(part) for part in (self.features, self.labels, self.owners) if part is not None and part.ndim]
        if len(set(lengths)) != 1:
            raise BadInput(f"{where}: features, labels and owners have different lengths: {lengths}.")
        if self.owners is not None and (self.owners.ndim != 1 or self.owners.dtype.kind not in "iuUS"):
            raise BadInput(f"{where}: owners must be whole numbers or texts [n]; found {_shown(self.owners)}.")
        if self.owners is not None and not _readable(self.owners):
            raise BadInput(f"{where}: owners hold characters that are none.")
        for what, part in (("features", self.features), ("labels", self.labels)):
            if part.dtype.kind not in "biuf":
                raise BadInput(f"{where}: {what} must be numbers; found {_shown(part)}.")

    def take(self, records: NDArray[np.int64]) -> Arrays:
        """Some of the records."""
        owners = None if self.owners is None else self.owners[records]
        return Arrays(self.features[records], self.labels[records], owners)


@dataclass(frozen=True)
class Declared:
    """What a scenario says about arrays: names of classes or numbers, a public divisor, and whether they are tokens."""

    names: tuple[str, ...] = ()
    scale: float = 1.0
    vocabulary: int = 0


def split_dataset(where: str, whole: Arrays, declared: Declared, fraction: float, seed: int) -> Dataset:
    """A data set of arrays without a test split; a ``fraction`` is held out by the seed."""
    whole.check(where)
    train, test = held_out(len(whole.labels), fraction, seed)
    return array_dataset(where, whole.take(train), whole.take(test), declared)


def array_dataset(where: str, train: Arrays, test: Arrays, declared: Declared) -> Dataset:
    """A data set of arrays: whole-number labels are classes, others numbers, two-dimensional whole numbers tokens.

    Raises ``BadInput`` that begins with ``where`` for types, shapes and values that cannot be used.
    """
    train.check(f"{where}, training data")
    test.check(f"{where}, test data")
    kind = _kind(where, (train, test), declared)
    names, notes = _names(where, kind, (train, test), declared)
    owner_names, (train_owners, test_owners) = _owners((train.owners, test.owners))
    try:
        return Dataset(
            Examples(_features(train.features, declared), _labels(train.labels, kind), train_owners),
            Examples(_features(test.features, declared), _labels(test.labels, kind), test_owners),
            names,
            kind,
            declared.vocabulary,
            owner_names,
            notes,
        )
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from error


def _kind(where: str, parts: Sequence[Arrays], declared: Declared) -> Kind:
    labels = [part.labels for part in parts]
    whole = [label.dtype.kind in "biu" for label in labels]
    if labels[0].shape[1:] != labels[1].shape[1:] or whole[0] != whole[1] or labels[0].ndim > 2:
        raise BadInput(f"{where}: labels are {_shown(labels[0])} for training and {_shown(labels[1])} for testing.")
    if declared.vocabulary and any(part.features.dtype.kind not in "iu" for part in parts):
        raise BadInput(f"{where}: data.vocabulary is set, so the features must be whole numbers.")
    if not whole[0]:
        return "numbers"
    if labels[0].ndim == 1:
        return "classes"
    if not declared.vocabulary or labels[0].shape[1:] != parts[0].features.shape[1:]:
        raise BadInput(
            f"{where}: labels are {_shown(labels[0])}; classes are [n], numbers are floating point, and tokens need "
            "data.vocabulary and one label for each."
        )
    return "tokens"


def _names(
    where: str, kind: Kind, parts: Sequence[Arrays], declared: Declared
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of classes, numbers or tokens: the declared ones or counts; and what had to be counted."""
    if kind == "classes":
        wanted = max(int(part.labels.max()) for part in parts) + 1
        if any(int(part.labels.min()) < 0 for part in parts):
            raise BadInput(f"{where}: some labels are below 0; classes are numbered from 0.")
        if not declared.names and wanted > MOST_CLASSES:
            raise BadInput(f"{where}: labels go up to {wanted - 1}; more than {MOST_CLASSES} classes must be named.")
        if declared.names:
            return declared.names, ()
        return _counted(wanted), (f"{wanted} classes, counted off the labels of all clients.",)
    wanted = declared.vocabulary if kind == "tokens" else int(np.prod(parts[0].labels.shape[1:]))
    if declared.names and len(declared.names) != wanted:
        raise BadInput(f"{where}: data.names has {len(declared.names)} names for {wanted} {kind}.")
    return declared.names or _counted(wanted), ()


def _counted(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def _features(values: NDArray[Any], declared: Declared) -> NDArray[Any]:
    """Float32, or int64 tokens; arrays that are so already stay where they are, memory-mapped or not."""
    if declared.vocabulary:
        return _writable(values.astype(np.int64, copy=False))
    with np.errstate(over="ignore"):  # infinities are refused by the data set, with their number
        numbers = values.astype(np.float32, copy=False)
    numbers = _writable(numbers if declared.scale == 1 else numbers / np.float32(declared.scale))
    return numbers if numbers.ndim > 1 else numbers[:, None]


def _labels(values: NDArray[Any], kind: Kind) -> NDArray[Any]:
    if kind != "numbers":
        return _writable(values.astype(np.int64, copy=False))
    with np.errstate(over="ignore"):
        numbers = _writable(values.astype(np.float32, copy=False))
    return numbers if numbers.ndim > 1 else numbers[:, None]


def _writable(values: NDArray[Any]) -> NDArray[Any]:
    """Torch warns of arrays that it must not write to."""
    return values if values.flags.writeable else values.copy()


def _owners(parts: Sequence[NDArray[Any] | None]) -> tuple[tuple[str, ...], list[NDArray[np.int64] | None]]:
    """Names of all owners, those of training data first; each split's owners as positions among them."""
    names: dict[str, int] = {}
    owners: list[NDArray[np.int64] | None] = []
    for part in parts:
        if part is None:
            owners.append(None)
            continue
        values, positions = np.unique(part, return_inverse=True)
        texts = [value.decode("latin-1") if isinstance(value, bytes) else str(value) for value in values.tolist()]
        numbers = np.array([names.setdefault(text, len(names)) for text in texts], np.int64)
        owners.append(numbers[positions])
    return tuple(names), owners


def _readable(texts: NDArray[Any]) -> bool:
    """Whether all characters exist: any four bytes can stand in an array of texts."""
    if texts.dtype.kind != "U" or texts.dtype.itemsize == 0:
        return True
    codes = np.ascontiguousarray(texts.astype(texts.dtype.newbyteorder("="))).view(np.uint32)
    return not ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any()


def _shown(values: NDArray[Any]) -> str:
    return f"{list(values.shape)} of type {values.dtype}"
