"""Arrays of your own: an npz file, or a folder of npy files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsim.data.arrays import Arrays, Declared, array_dataset, split_dataset
from fedsim.data.dataset import Dataset
from fedsim.data.npy import Archive
from fedsim.data.splitting import Fraction
from fedsim.errors import BadInput
from fedsim.paths import expanded
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True)
class Npz:
    """Arrays by name in an npz file or a folder of npy files (memory-mapped where they are not compressed).

    Labels that are whole numbers are classes, called ``names`` or by their numbers; others are numbers to predict.
    Features are divided by ``scale``, a public constant, or are tokens below ``vocabulary``. Without test arrays a
    fraction is held out.
    """

    path: str
    source: Literal["npz"] = "npz"
    train_features: str = "x_train"
    train_labels: str = "y_train"
    train_owners: str | None = None
    test_features: str | None = None
    test_labels: str | None = None
    test_owners: str | None = None
    test_fraction: Fraction = 0.2
    names: tuple[str, ...] = ()
    scale: Positive = 1.0
    vocabulary: Annotated[int, Field(ge=0)] = 0

    def load(self, seed: int) -> Dataset:
        """The arrays as a data set; raises ``BadInput`` that names the file and what is wrong with it."""
        path = expanded("data.path", self.path)
        if not path.exists():
            raise BadInput(f'data.path = "{self.path}": there is no such npz file or folder of npy files.')
        if (self.test_features is None) != (self.test_labels is None):
            raise BadInput("data.test_features and data.test_labels: give both, or neither to hold out a fraction.")
        if self.test_owners is not None and (self.test_features is None or self.train_owners is None):
            raise BadInput("data.test_owners: needs data.train_owners and data.test_features.")
        archive, declared = Archive(path), Declared(self.names, self.scale, self.vocabulary)
        train = _arrays(archive, self.train_features, self.train_labels, self.train_owners)
        if self.test_features is None or self.test_labels is None:
            return split_dataset(str(path), train, declared, self.test_fraction, seed)
        test = _arrays(archive, self.test_features, self.test_labels, self.test_owners)
        return array_dataset(str(path), train, test, declared)


def _arrays(archive: Archive, features: str, labels: str, owners: str | None) -> Arrays:
    return Arrays(archive.array(features), archive.array(labels), archive.array(owners) if owners else None)
