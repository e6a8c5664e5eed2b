"""Parquet tables give what the same table gives as delimited text."""

from __future__ import annotations

import builtins
import importlib
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from fedsim.data.columns import Categorical, Numeric
from fedsim.data.csv_table import Csv
from fedsim.data.parquet import Parquet
from fedsim.errors import BadInput

COLUMNS = {
    "age": [41, 35, None, 60, 22],
    "dose": [0.1, 1e-7, 3.0, 1 / 3, 5.5],
    "smokes": [True, False, True, None, False],
    "ward": ["a", "b", "a", "b", "a"],
    "ill": ["no", "yes", "yes", "no", "no"],
    "unused": [[1], [2], [3], [4], [5]],
}
FEATURES = (
    Numeric(name="age", mean=40, std=10, fill=50),
    Numeric(name="dose"),
    Categorical(name="smokes", values=("true", "false"), other=True),
)


def parquet(path: object, **changes: object) -> Parquet:
    own = Parquet(path=str(path), label="ill", classes=("no", "yes"), features=FEATURES, client="ward")
    return replace(own, test_fraction=0.4, **changes)


@pytest.fixture
def file(tmp_path):
    arrow, module = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    module.write_table(arrow.table(COLUMNS), tmp_path / "t.parquet")
    return tmp_path / "t.parquet"


def test_it_is_read_as_the_same_table_in_text(file):
    names = list(COLUMNS)[:-1]
    cells = [["" if value is None else str(value).replace("True", "true") for value in COLUMNS[name]] for name in names]
    lines = [",".join(row).replace("False", "false") for row in zip(*cells, strict=True)]
    file.with_name("t.csv").write_text("\n".join([",".join(names), *lines]))
    ours = parquet(file)
    shared = {
        field.name: getattr(ours, field.name) for field in fields(Parquet) if field.name not in ("source", "path")
    }
    text = Csv(path=str(file.with_name("t.csv")), **shared).load(0)
    data = ours.load(0)
    for split in ("train", "test"):
        for what in ("features", "labels", "owners"):
            np.testing.assert_array_equal(getattr(getattr(data, split), what), getattr(getattr(text, split), what))
    assert data.owners == ("a", "b")
    assert data.notes[0].removeprefix("t.parquet") == text.notes[0].removeprefix("t.csv")
    doses = np.sort(np.concatenate([data.train.features, data.test.features])[:, 1])
    np.testing.assert_array_equal(doses, np.sort(np.array(COLUMNS["dose"], np.float32)))


def test_columns_that_are_not_there_or_hold_no_plain_values_are_refused(file):
    with pytest.raises(BadInput, match=re.escape('t.parquet has no column "doze" (did you mean "dose"?)')):
        parquet(file, features=(Numeric(name="doze"),)).load(0)
    with pytest.raises(BadInput, match="cannot be read as a Parquet table"):
        parquet(file, features=(Numeric(name="unused"),)).load(0)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(20) + b"PAR1", b"who,age\n"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path, content):
    pytest.importorskip("pyarrow")
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(f"{tmp_path / 't.parquet'} cannot be read as a Parquet table")):
        parquet(tmp_path / "t.parquet").load(0)


def test_a_torn_file_is_refused(file):
    whole = file.read_bytes()
    for end in range(0, len(whole), 97):
        file.write_bytes(whole[:end])
        with pytest.raises(BadInput):
            parquet(file).load(0)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")

    def absent(name: str, *rest: object) -> object:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return builtins.__import__(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(BadInput, match=re.escape('pip install "fedsim[parquet]"')):
        parquet(tmp_path / "t.parquet").load(0)
