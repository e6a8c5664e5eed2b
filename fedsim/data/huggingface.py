"""Hugging Face ``datasets`` from a local directory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedsim.data.arrays import Arrays, Declared, array_dataset, split_dataset
from fedsim.data.dataset import Dataset
from fedsim.data.files import data_folders
from fedsim.data.splitting import Fraction
from fedsim.errors import BadInput
from fedsim.extras import missing
from fedsim.paths import expanded
from fedsim.settings import Positive, section


@section
@dataclass(frozen=True)
class HuggingFace:
    """A Hugging Face data set by declared columns (extra ``fedsim[hf]``), from a directory of ``save_to_disk``.

    ``dataset`` is that directory, or a name of the hub such as ``"ylecun/mnist"``, which is looked for in
    ``$FEDSIM_DATA/hf`` (``fedsim data fetch hf --dataset NAME`` puts it there). Several ``features`` columns are put
    side by side; images become ``[channels, height, width]``. Without ``test_split`` a fraction is held out.
    """

    dataset: Annotated[str, Field(min_length=1)]
    features: Annotated[tuple[str, ...], Field(min_length=1)]
    label: str
    source: Literal["hf"] = "hf"
    client: str | None = None
    train_split: str = "train"
    test_split: str | None = None
    test_fraction: Fraction = 0.2
    names: tuple[str, ...] = ()
    scale: Positive = 1.0

    def load(self, seed: int) -> Dataset:
        """The columns as a data set; nothing is downloaded. Raises ``BadInput`` that names what is missing or wrong."""
        found = _open(self._folder())
        where = f'data.dataset = "{self.dataset}"'
        declared = Declared(self.names or self._class_names(found), self.scale)
        train = self._arrays(found, self.train_split)
        if self.test_split is None:
            return split_dataset(where, train, declared, self.test_fraction, seed)
        return array_dataset(where, train, self._arrays(found, self.test_split), declared)

    def _folder(self) -> Path:
        folders = [expanded("data.dataset", self.dataset)]
        folders += [folder / hub_folder(self.dataset) for folder in data_folders("hf", None)]
        for folder in folders:
            if folder.is_dir():
                return folder
        raise BadInput(
            f'data.dataset = "{self.dataset}" is in none of: {", ".join(map(str, folders))}. Name a directory of '
            f"save_to_disk, or download it: fedsim data fetch hf --dataset {self.dataset}"
        )

    def _split(self, found: Any, split: str) -> Any:
        if not isinstance(found, dict):  # a single split was saved
            return found
        if split not in found:
            raise BadInput(f'data.dataset = "{self.dataset}" has no split "{split}"; it has: {", ".join(found)}.')
        return found[split]

    def _class_names(self, found: Any) -> tuple[str, ...]:
        """The published names of the classes, if the data set's own description has them."""
        column = self._split(found, self.train_split).features.get(self.label)
        return tuple(getattr(column, "names", ()))

    def _arrays(self, found: Any, split: str) -> Arrays:
        rows = self._split(found, split)
        wanted = [*self.features, self.label, *([self.client] if self.client else [])]
        missing = [name for name in wanted if name not in rows.column_names]
        if missing:
            raise BadInput(
                f'data.dataset = "{self.dataset}", split "{split}", has no column {", ".join(missing)}; '
                f"it has: {', '.join(rows.column_names)}."
            )
        columns = [self._column(rows, name) for name in wanted]
        count = len(self.features)
        return Arrays(_joined(columns[:count]), columns[count], columns[count + 1] if self.client else None)

    def _column(self, rows: Any, name: str) -> NDArray[Any]:
        try:
            values = rows.select_columns([name]).with_format("numpy")[:][name]
            values = np.stack(list(values)) if len(values) and values[0].__class__ is np.ndarray else np.asarray(values)
        except Exception as error:  # whatever a damaged table or a missing decoder leads to
            raise BadInput(f'data.dataset = "{self.dataset}", column {name}, cannot be read: {error}.') from error
        image = type(rows.features[name]).__name__ == "Image"
        return _channels_first(values) if image else values


def hub_folder(name: str) -> str:
    """The folder name of a data set of the hub."""
    return name.replace("/", "--")


def fetch_from_hub(name: str, folder: Path) -> None:
    """Download a data set of the hub and save it in ``folder``; raises ``BadInput`` when that fails."""
    if folder.exists():
        raise BadInput(f"{folder} exists already; remove it or name another folder by --to.")
    try:
        _datasets().load_dataset(name).save_to_disk(str(folder))
    except BadInput:
        raise
    except Exception as error:  # no network, no such name, no room
        raise BadInput(f"{name} cannot be fetched from the Hugging Face hub: {error}.") from error


def _open(folder: Path) -> Any:
    load: Callable[[str], Any] = _datasets().load_from_disk
    try:
        return load(str(folder))
    except Exception as error:  # whatever a damaged directory leads to
        raise BadInput(f"{folder} is not a directory written by save_to_disk: {error}.") from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise missing('data.source = "hf"', "datasets", "hf") from error
    return datasets


def _joined(columns: list[NDArray[Any]]) -> NDArray[Any]:
    """One column as it is; several, side by side."""
    if len(columns) == 1:
        return columns[0]
    if any(column.ndim != 1 or column.dtype.kind not in "biuf" for column in columns):
        raise BadInput("data.features: several columns must be numbers, one each; or name a single column of arrays.")
    return np.stack(columns, axis=1)


def _channels_first(images: NDArray[Any]) -> NDArray[Any]:
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
