"""UCI Parkinsons telemonitoring (Tsanas et al. 2010): severity of the disease from recordings of the voice."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedsim.data.assembling import Split, assemble, split_rows
from fedsim.data.columns import Finite, NumberLabel, Numeric
from fedsim.data.csv_table import Format, read_csv
from fedsim.data.dataset import Dataset
from fedsim.data.files import find_files
from fedsim.data.published import Published
from fedsim.data.scaling import Constants, ScalingChoice, Unscaled
from fedsim.data.tabular import Rows, Schema, encode
from fedsim.paths import expanded
from fedsim.seeding import Stream, generator
from fedsim.settings import Positive, section

# Round values of the order of the published recordings' own, as constants of a public data set.
MOMENTS = {
    "age": (65, 10),
    "sex": (0.5, 0.5),
    "test_time": (90, 50),
    "Jitter(%)": (6e-3, 6e-3),
    "Jitter(Abs)": (4e-5, 4e-5),
    "Jitter:RAP": (3e-3, 3e-3),
    "Jitter:PPQ5": (3e-3, 3e-3),
    "Jitter:DDP": (9e-3, 9e-3),
    "Shimmer": (0.03, 0.03),
    "Shimmer(dB)": (0.3, 0.2),
    "Shimmer:APQ3": (0.02, 0.01),
    "Shimmer:APQ5": (0.02, 0.02),
    "Shimmer:APQ11": (0.03, 0.02),
    "Shimmer:DDA": (0.05, 0.04),
    "NHR": (0.03, 0.06),
    "HNR": (22, 4),
    "RPDE": (0.5, 0.1),
    "DFA": (0.65, 0.07),
    "PPE": (0.2, 0.1),
}
FEATURES = tuple(Numeric(name=name, mean=mean, std=std) for name, (mean, std) in MOMENTS.items())
SCORES = {"motor": ("motor_UPDRS",), "total": ("total_UPDRS",), "both": ("motor_UPDRS", "total_UPDRS")}
FOLDER = "parkinsons_telemonitoring"


@section
@dataclass(frozen=True)
class Parkinsons:
    """UPDRS scores (regression) from 5,875 voice recordings of 42 patients (UCI); files in ``path`` or $FEDSIM_DATA.

    Held out is ``test_fraction`` of every patient's recordings, or of the patients (who are then strangers to the
    model). The label is (score - label_mean) / label_std; left out, points of the scale.
    """

    source: Literal["parkinsons"] = "parkinsons"
    path: str | None = None
    score: Literal["motor", "total", "both"] = "motor"
    held_out: Literal["recordings", "patients"] = "recordings"
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    label_mean: Finite = 0.0
    label_std: Positive = 1.0
    scaling: ScalingChoice = Constants()

    def load(self, seed: int) -> Dataset:
        """Features ``[n, 19]`` and scores ``[n, 1 or 2]``, split by the scenario's seed."""
        published = Published("archive.ics.uci.edu/dataset/189/parkinsons+telemonitoring")
        file = find_files("parkinsons", self.path or _folder(), ["parkinsons_updrs.data"], published)[0]
        labels = tuple(NumberLabel(score, self.label_mean, self.label_std) for score in SCORES[self.score])
        schema = Schema(FEATURES, labels, "subject#")
        rows = encode(read_csv(file, Format()), schema)
        train, test = (rows.take(part) for part in self._split(rows, generator(seed, Stream.SPLIT)))
        unscaled = Unscaled(train, test, FEATURES, lambda path: encode(read_csv(Path(path), Format()), schema))
        return assemble(schema, unscaled, self.scaling)

    def _split(self, rows: Rows, rng: np.random.Generator) -> Split:
        if self.held_out == "recordings" or rows.owners is None:
            return split_rows(rows, self.test_fraction, rng)
        patients = rng.permutation(np.unique(rows.owners))
        strangers = patients[: max(1, round(self.test_fraction * len(patients)))]
        test = np.isin(rows.owners, strangers)
        return np.flatnonzero(~test), np.flatnonzero(test)


def _folder() -> str | None:
    """UCI's own name of the folder in ``$FEDSIM_DATA``, where there is one."""
    root = os.environ.get("FEDSIM_DATA")
    folder = expanded("FEDSIM_DATA", root) / FOLDER if root else None
    return str(folder) if folder is not None and folder.is_dir() else None
