"""A small table of one's own, and how a slow parser reads it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from fedsim.data import Dataset
from fedsim.data.columns import Categorical, Numeric
from fedsim.data.csv_table import Csv

FEATURES = (Numeric(name="age", mean=40, std=12), Categorical(name="sex", values=("m", "f")))


def table(rows: int = 60, seed: int = 0) -> list[list[str]]:
    """A header and rows whose age tells each from every other."""
    rng = random.Random(seed)
    body = [[rng.choice("abc"), str(20 + n), rng.choice("mf"), rng.choice(["no", "yes"])] for n in range(rows)]
    return [["who", "age", "sex", "ill"], *body]


def write(file: Path, rows: list[list[str]], separator: str = ",") -> str:
    file.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def csv(path: str, **changes: object) -> Csv:
    return replace(Csv(path=path, label="ill", classes=("no", "yes"), features=FEATURES), **changes)


def slow(rows: list[list[str]]) -> dict[int, tuple[list[float], int, str]]:
    """Age -> features, class and owner of each row, one cell at a time."""
    found = {}
    for who, age, sex, ill in rows[1:]:
        one = 1.0 if sex == "m" else 0.0
        found[int(age)] = ([(float(age) - 40) / 12, one, 1 - one], 1 if ill == "yes" else 0, who)
    return found


def as_read(data: Dataset) -> dict[int, tuple[list[float], int, str | None]]:
    found = {}
    for split in (data.train, data.test):
        for number in range(len(split)):
            features = split.features[number].astype(float).tolist()
            owner = None if split.owners is None else data.owners[split.owners[number]]
            age = round(features[0] * 12 + 40)
            assert age not in found
            found[age] = features, int(split.labels[number]), owner
    return found


def same(found: dict[int, tuple], wanted: dict[int, tuple]) -> None:
    assert found.keys() == wanted.keys()
    for age, (features, label, owner) in wanted.items():
        assert found[age][0] == pytest.approx(features, abs=1e-6)
        assert found[age][1:] == (label, owner)
