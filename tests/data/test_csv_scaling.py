"""A table declared in a scenario, and how its numbers are scaled."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fedsim.data.columns import Numeric
from fedsim.data.scaling import PerClient, PublicFile
from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from tests.data.own_tables import FEATURES, csv, table, write

# In a scenario

SCENARIO = """
[data]
source = "csv"
path = "PATH"
label = "ill"
classes = ["no", "yes"]
client = "who"
features = [
  { name = "age", kind = "numeric", mean = 40, std = 12 },
  { name = "sex", kind = "categorical", values = ["m", "f"] },
]
"""


def test_a_scenario_declares_a_table_and_is_written_out_whole(tmp_path):
    path = write(tmp_path / "t.csv", table())
    scenario = parse_scenario(SCENARIO.replace("PATH", path), "own")
    assert scenario.data == csv(path, client="who")
    assert parse_scenario(scenario.to_toml(), "own") == scenario


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('data.features=[{name="age",kind="numeric",std=0}]', "data.features[0].std = 0"),
        (
            'data.features=[{name="age",kind="numeric",mena=0}]',
            'data.features[0].mena = 0: unknown key (did you mean "mean"?)',
        ),
        ('data.features=[{name="age",kind="number"}]', 'data.features[0].kind = "number": must be one of numeric'),
        ('data.scaling={kind="clients"}', 'data.scaling.kind = "clients"'),
        ("data.test_fraction=1", "data.test_fraction = 1"),
        ('data.separator=""', "data.separator"),
    ],
)
def test_a_mistake_in_the_declaration_is_named(override, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        parse_scenario(SCENARIO, "own", [override])


def test_scaling_per_client_is_refused_under_example_level_privacy():
    private = "[privacy.example]\nclip_norm = 1.0\nnoise_multiplier = 1.0\ndelta = 1e-4\n"
    override = 'data.scaling={kind="client"}'
    assert parse_scenario(SCENARIO, "own", [override]).data.scaling == PerClient()
    assert parse_scenario(SCENARIO + private, "own").privacy.example
    with pytest.raises(BadInput, match=re.escape('data.scaling.kind = "client": each record would change')):
        parse_scenario(SCENARIO + private, "own", [override])


# Scaling


def test_a_public_file_gives_the_mean_and_the_spread(tmp_path):
    public = write(tmp_path / "public.csv", table(7, seed=1))
    data = csv(write(tmp_path / "t.csv", table()), scaling=PublicFile(public)).load(0)
    ages = np.arange(20, 27)
    found = np.sort(np.concatenate([data.train.features, data.test.features])[:, 0])
    np.testing.assert_allclose(found, (np.arange(20, 80) - ages.mean()) / ages.std(), rtol=1e-5, atol=1e-6)
    assert set(np.unique(data.train.features[:, 1:])) == {0, 1}
    assert data.notes == ("Scaled by the statistics of 7 rows declared public.",)


def test_a_public_file_that_is_not_there_or_has_no_rows_is_refused(tmp_path):
    path = write(tmp_path / "t.csv", table())
    with pytest.raises(BadInput, match=re.escape("needs the files public.csv")):
        csv(path, scaling=PublicFile(str(tmp_path / "public.csv"))).load(0)
    empty = write(tmp_path / "public.csv", table(0))
    with pytest.raises(BadInput, match=re.escape('public.csv": it has no usable rows')):
        csv(path, scaling=PublicFile(empty)).load(0)


def test_scaling_per_client_looks_at_nothing_but_the_owners_own_training_rows(tmp_path):
    path = write(tmp_path / "t.csv", table())
    plain = csv(path, client="who", features=(Numeric(name="age"), FEATURES[1])).load(5)
    data = csv(path, client="who", scaling=PerClient()).load(5)
    for owner in range(3):
        train, test = plain.train.owners == owner, plain.test.owners == owner
        ages = [float(age) for age, own in zip(plain.train.features[:, 0], train, strict=True) if own]
        mean = sum(ages) / len(ages)
        std = (sum((age - mean) ** 2 for age in ages) / len(ages)) ** 0.5
        for split, rows in (("train", train), ("test", test)):
            wanted = (getattr(plain, split).features[rows, 0].astype(float) - mean) / std
            np.testing.assert_allclose(getattr(data, split).features[rows, 0], wanted, rtol=1e-5, atol=1e-6)
    assert "own training records" in data.notes[0]


def test_one_clients_data_does_not_change_anothers_features(tmp_path):
    rows = table()
    before = csv(write(tmp_path / "t.csv", rows), client="who", scaling=PerClient()).load(0)
    changed = [[who, "99" if who == "a" else age, sex, ill] for who, age, sex, ill in rows[1:]]
    after = csv(write(tmp_path / "t.csv", [rows[0], *changed]), client="who", scaling=PerClient()).load(0)
    others = before.train.owners > 0
    np.testing.assert_array_equal(before.train.features[others], after.train.features[others])
    assert (after.train.features[~others, 0] == 0).all()
    assert "In 1 cases a column is constant at an owner; there it is only centred." in after.notes


def test_scaling_per_client_needs_owners_with_training_rows(tmp_path):
    path = write(tmp_path / "t.csv", table())
    with pytest.raises(BadInput, match=re.escape("the data has no owners; declare data.client")):
        csv(path, scaling=PerClient()).load(0)
    stranger = write(tmp_path / "test.csv", [table()[0], ["z", "30", "m", "no"]])
    with pytest.raises(
        BadInput, match=re.escape('1 owners have test records but no training records (the first is "z")')
    ):
        csv(path, client="who", test_path=stranger, scaling=PerClient()).load(0)
