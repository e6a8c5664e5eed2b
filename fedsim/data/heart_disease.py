"""UCI heart disease from four hospitals (Janosi et al. 1988), by the protocol of FLamby."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.data.assembling import Split, assemble
from fedsim.data.columns import Categorical, ClassLabel, Numeric
from fedsim.data.csv_table import Format, read_csv
from fedsim.data.dataset import Dataset
from fedsim.data.files import find_files
from fedsim.data.published import Published
from fedsim.data.scaling import Constants, ScalingChoice, Unscaled
from fedsim.data.tabular import Rows, Schema, Table, encode, join
from fedsim.errors import BadInput
from fedsim.settings import section

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca")
FORMAT = Format(columns=(*COLUMNS, "thal", "num"))
# Round clinical values: years, mm Hg, mg/dl, beats per minute, mm; yes or no around a half.
FEATURES = (
    Numeric(name="age", mean=55, std=10),
    Numeric(name="sex", mean=0.5, std=0.5),
    Numeric(name="trestbps", mean=130, std=20),
    Numeric(name="chol", mean=200, std=100),
    Numeric(name="fbs", mean=0.5, std=0.5),
    Numeric(name="thalach", mean=140, std=25),
    Numeric(name="exang", mean=0.5, std=0.5),
    Numeric(name="oldpeak", mean=1, std=1),
    Categorical(name="cp", values=("1", "2", "3", "4"), drop_first=True),
    Categorical(name="restecg", values=("0", "1", "2"), drop_first=True),
)
# The label counts narrowed vessels, of which FLamby asks whether there is one.
LABEL = ClassLabel("num", ("healthy", "ill"), {"0": 0, "1": 1, "2": 1, "3": 1, "4": 1})
PAGE = Published("archive.ics.uci.edu/dataset/45/heart+disease")
LEAST_ROWS = 3
SCHEMA = Schema(FEATURES, (LABEL,), "hospital", ("?",), "drop")


@section
@dataclass(frozen=True)
class HeartDisease:
    """Heart disease or not, 740 patients of 4 hospitals (UCI); files in ``path`` or ``$FEDSIM_DATA/heart_disease``.

    Columns, rows and the 66/34 split of each hospital are those of FLamby (Ogier du Terrail et al. 2022,
    arXiv 2210.04620). Scaling by each hospital's own records hides in what hospitals differ; it costs accuracy.
    """

    source: Literal["heart_disease"] = "heart_disease"
    path: str | None = None
    scaling: ScalingChoice = Constants()

    def load(self, seed: int) -> Dataset:
        """Features ``[n, 13]``; the split is the published one (the seed is not used)."""
        wanted = [f"processed.{hospital}.data" for hospital in HOSPITALS]
        files = find_files("heart_disease", self.path, wanted, PAGE)
        hospitals = [encode(_table(file, name), SCHEMA) for file, name in zip(files, HOSPITALS, strict=True)]
        splits = [_split(rows) for rows in hospitals]
        train, test = (
            join([rows.take(split[side]) for rows, split in zip(hospitals, splits, strict=True)]) for side in (0, 1)
        )
        return assemble(SCHEMA, Unscaled(train, test, FEATURES, _public), self.scaling)

    def one_hospital(self, path: str) -> Dataset:
        """One hospital's file alone, with the same split: what that hospital trains on, and what it holds back."""
        rows = encode(_table(Path(path).expanduser(), "site"), SCHEMA)
        train, test = (rows.take(part) for part in _split(rows))
        return assemble(SCHEMA, Unscaled(train, test, FEATURES, _public), self.scaling)


def _public(path: str) -> Rows:
    return encode(_table(Path(path), "public"), SCHEMA)


def _table(file: Path, hospital: str) -> Table:
    """One hospital's file, in which a class may be written 1 or 1.0."""
    table = read_csv(file, FORMAT)
    columns: dict[str, Sequence[str]] = {
        name: [text.removesuffix(".0") for text in texts] for name, texts in table.columns.items()
    }
    return replace(table, columns=columns | {"hospital": [hospital] * len(table.lines)})


def _split(rows: Rows) -> Split:
    """FLamby's split of one hospital, stratified where there are three of each class."""
    from sklearn.model_selection import train_test_split

    if len(rows) < LEAST_ROWS:
        raise BadInput(f"A hospital of heart_disease has {len(rows)} usable rows; a split needs {LEAST_ROWS}.")
    counts = np.bincount(rows.labels.astype(np.int64), minlength=2)
    stratify = rows.labels if counts.min() > 2 else None
    train, test = train_test_split(
        np.arange(len(rows)), test_size=0.34, train_size=0.66, random_state=43, stratify=stratify
    )
    return np.sort(train), np.sort(test)
