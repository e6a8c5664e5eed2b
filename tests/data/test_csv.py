"""Tables of one's own: read as a slow parser reads them; what does not fit is refused or counted."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedsim.data.columns import Categorical, Numeric
from fedsim.data.csv_table import Csv
from fedsim.errors import BadInput
from fedsim.holdings import load_holdings
from fedsim.loading import parse_scenario
from tests.data.own_tables import FEATURES, as_read, csv, same, slow, table, write

# What is read


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_every_row_is_read_as_by_a_slow_parser_and_is_in_one_split(tmp_path, separator, zipped):
    path = write(tmp_path / "t.csv", table(), separator)
    if zipped:
        (tmp_path / "t.csv.gz").write_bytes(gzip.compress(Path(path).read_bytes()))
        Path(path).unlink()
    data = csv(path, client="who", separator=separator).load(0)
    same(as_read(data), slow(table()))
    assert data.owners == ("a", "b", "c")
    assert data.names == ("no", "yes")
    assert (data.train.features.dtype, data.train.labels.dtype) == (np.float32, np.int64)
    assert data.notes == ("Numeric columns are scaled by public constants, which reveal nothing about the data.",)


def test_quotes_blanks_comments_blank_lines_and_a_byte_order_mark(tmp_path):
    text = '\ufeff# made by hand\r\n"age", ill,"sex"\r\n\r\n 41,"yes",m\r\n# done\r\n"42",no  ,\tf'
    (tmp_path / "t.csv").write_bytes(text.encode())
    data = csv(str(tmp_path / "t.csv"), comment="#", test_fraction=0.5).load(0)
    assert {age: label for age, (_, label, _) in as_read(data).items()} == {41: 1, 42: 0}


def test_without_a_header_the_columns_are_named_in_the_scenario(tmp_path):
    path = write(tmp_path / "t.csv", table()[1:])
    data = csv(path, client="who", header=False, columns=("who", "age", "sex", "ill")).load(0)
    same(as_read(data), slow(table()))


def test_a_test_file_is_all_that_is_held_out(tmp_path):
    everything = table()
    path = write(tmp_path / "train.csv", everything[:41])
    held_out = write(tmp_path / "test.csv", [everything[0], *everything[41:]])
    data = csv(path, test_path=held_out, client="who").load(0)
    assert (len(data.train), len(data.test)) == (40, 20)
    assert data.train.features[:, 0] * 12 + 40 == pytest.approx(np.arange(20, 60), abs=1e-3)
    same(as_read(data), slow(everything))


def test_numbers_as_labels_are_scaled_by_the_declared_constants(tmp_path):
    path = write(tmp_path / "t.csv", table())
    features = (FEATURES[1],)
    data = Csv(path=path, label="age", task="numbers", label_mean=50, label_std=10, features=features).load(0)
    assert data.kind == "numbers"
    assert data.names == ("age",)
    assert data.train.labels.dtype == np.float32
    labels = np.sort(np.concatenate([data.train.labels, data.test.labels])[:, 0])
    np.testing.assert_allclose(labels, (np.arange(20, 80) - 50) / 10, rtol=1e-6)


def test_the_split_takes_the_fraction_of_every_owner_who_keeps_one_to_train_on(tmp_path):
    rows = [["who", "age", "sex", "ill"]]
    for owner, size in (("a", 1), ("b", 2), ("c", 10), ("d", 40)):
        rows += [[owner, str(20 + len(rows) + n), "m", "no"] for n in range(size)]
    source = csv(write(tmp_path / "t.csv", rows), client="who", test_fraction=0.25)
    first, again, other = source.load(1), source.load(1), source.load(2)
    assert np.bincount(first.train.owners).tolist() == [1, 2, 8, 30]
    assert np.bincount(first.test.owners, minlength=4).tolist() == [0, 0, 2, 10]
    np.testing.assert_array_equal(first.test.features, again.test.features)
    assert not np.array_equal(first.test.features, other.test.features)


def test_owners_that_are_whole_numbers_stand_in_their_order(tmp_path):
    rows = [[str(n % 12), str(20 + n), "m", "no"] for n in range(48)]
    data = csv(write(tmp_path / "t.csv", [table()[0], *rows]), client="who").load(0)
    assert data.owners == tuple(str(n) for n in range(12))


def test_a_category_not_declared_counts_as_other_where_that_is_declared(tmp_path):
    rows = table(20)
    rows[3][2], rows[5][2] = "x", ""
    other = (FEATURES[0], Categorical(name="sex", values=("m", "f"), other=True))
    data = csv(write(tmp_path / "t.csv", rows), features=other).load(0)
    found = as_read(data)
    assert found[22][0][1:] == [0, 0, 1]
    assert found[24][0][1:] == [0, 0, 1]
    assert data.notes[0] == 't.csv: Column "sex": 2 values that are missing or not declared became other.'
    first = (FEATURES[0], Categorical(name="sex", values=("m", "f"), other=True, drop_first=True))
    dropped = as_read(csv(write(tmp_path / "t.csv", rows), features=first).load(0))
    assert all(dropped[age][0][1:] == found[age][0][2:] for age in found)


def test_missing_numbers_are_filled_where_that_is_declared_and_a_marker_may_look_like_a_number(tmp_path):
    rows = table(20)
    rows[3][1], rows[5][1] = "-9", ""
    fill = (Numeric(name="age", mean=40, std=12, fill=100), FEATURES[1])
    data = csv(write(tmp_path / "t.csv", rows), features=fill, missing=("-9",)).load(0)
    ages = np.concatenate([data.train.features, data.test.features])[:, 0] * 12 + 40
    assert (ages.round() == 100).sum() == 2
    assert ages.min() > 19
    assert data.notes[0] == 't.csv: Column "age": 2 missing values became 100.'


def test_constant_columns_are_reported(tmp_path):
    rows = [[who, "33", "f", ill] for who, _, _, ill in table(20)[1:]]
    data = csv(write(tmp_path / "t.csv", [table()[0], *rows])).load(0)
    assert data.notes[0] == "Constant in all training records: age, sex=m, sex=f."


def test_columns_left_as_they_are_are_named(tmp_path):
    data = csv(write(tmp_path / "t.csv", table()), features=(Numeric(name="age"), FEATURES[1])).load(0)
    assert data.notes == ("Not scaled, as no mean and std are declared: age.",)
    assert data.train.features[:, 0].max() > 20


@pytest.mark.parametrize(
    ("classes", "words"),
    [(("no", "yes", "maybe"), "class maybe."), (("no", "yes", *"abcdefg"), "classes a, b, c, d, e and 2 more.")],
)
def test_declared_classes_that_no_record_has_are_named(tmp_path, classes, words):
    data = csv(write(tmp_path / "t.csv", table()), classes=classes).load(0)
    assert data.notes[0] == f"No record has the {words}"


# What does not fit

BAD_ROWS = {
    "no value": (["a", "", "m", "no"], '1 no value in age (line 6: "")'),
    "no number": (["a", "old", "m", "no"], '1 not a finite number in age (line 6: "old")'),
    "infinite": (["a", "inf", "m", "no"], '1 not a finite number in age (line 6: "inf")'),
    "nan": (["a", "nan", "m", "no"], '1 not a finite number in age (line 6: "nan")'),
    "category": (["a", "30", "x", "no"], '1 a value not declared in sex (line 6: "x")'),
    "no category": (["a", "30", "?", "no"], '1 no value in sex (line 6: "?")'),
    "label": (["a", "30", "m", "maybe"], '1 a label not declared in ill (line 6: "maybe")'),
    "no label": (["a", "30", "m", "?"], '1 a label not declared in ill (line 6: "?")'),
    "no owner": (["?", "30", "m", "no"], '1 no owner in who (line 6: "?")'),
    "short": (["a", "30", "m"], "1 with another number of fields than columns (line 6)"),
    "long": (["a", "30", "m", "no", "no"], "1 with another number of fields than columns (line 6)"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_row_that_does_not_fit_is_refused_with_its_line_or_counted(tmp_path, kind):
    row, words = BAD_ROWS[kind]
    rows = table(20)
    source = csv(write(tmp_path / "t.csv", [*rows[:5], row, *rows[5:]]), client="who", missing=("?",))
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        source.load(0)
    assert "t.csv: 1 of 21 rows" in str(caught.value)
    assert 'data.bad_rows = "drop"' in str(caught.value)
    data = replace(source, bad_rows="drop").load(0)
    same(as_read(data), slow(rows))
    note = f"t.csv: 1 of 21 rows were left out: {words.partition(' (line')[0]}."
    assert data.notes[0] == note  # counts alone: a note is kept with the run and must show no record


def test_six_reasons_are_told_whole_and_the_columns_of_the_others_are_named(tmp_path):
    names = list("abcdefgh")
    path = write(tmp_path / "t.csv", [[*names, "ill"], *[["x"] * 8 + ["no"]] * 3])
    source = csv(path, features=tuple(Numeric(name=name) for name in names))
    with pytest.raises(BadInput) as caught:
        source.load(0)
    reasons = str(caught.value).partition("columns: ")[2].partition(". Repair")[0].split("; ")
    assert reasons[:6] == [f'3 not a finite number in {name} (line 2: "x")' for name in "abcdef"]
    assert reasons[6:] == ["more in g, h"]


@pytest.mark.parametrize("folder", ["", "sub/"])
def test_a_file_that_is_not_there_is_looked_for_from_the_current_folder(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as caught:
        csv(f"{folder}t.csv").load(0)
    message = str(caught.value)
    assert f"searched: {tmp_path / folder}." in message
    assert message.endswith("A relative path starts at the current folder.")
    with pytest.raises(BadInput) as caught:
        csv(str(tmp_path / "t.csv")).load(0)
    assert str(caught.value).endswith(f"searched: {tmp_path}.")


def test_natural_clients_of_a_table_without_owners_are_refused_by_the_missing_setting(tmp_path):
    path = write(tmp_path / "t.csv", table())
    scenario = replace(parse_scenario("", "x", ['population.partition={kind="natural"}']), data=csv(path))
    with pytest.raises(BadInput, match=r"Set data\.client to the column"):
        load_holdings(scenario)
    assert len(load_holdings(replace(scenario, data=csv(path, client="who"))).population) == 3


def test_a_number_as_label_that_stands_for_no_value_is_no_label(tmp_path):
    path = write(tmp_path / "t.csv", [["x", "y"], ["1", "-9"], ["2", "5"], ["3", "6"]])
    source = Csv(path=path, label="y", task="numbers", features=(Numeric(name="x"),), missing=("-9",))
    with pytest.raises(BadInput, match=re.escape('1 no value in y (line 2: "-9")')):
        source.load(0)


FILES = {
    "empty": (b"", "it is empty"),
    "header alone": (b"who,age,sex,ill\n", "no usable rows"),
    "twice": (b"who,age,age,ill\n", 'two columns are called "age"'),
    "not text": (b"who,age\xff\xfe,sex,ill\n", "not UTF-8 text (byte 7)"),
    "open quote": (b'who,age,sex,ill\na,"30,m,no\nb,31,f,no\n', "unexpected end of data"),
    "column": (b"who,aged,sex,ill\n", 'data.features: t.csv has no column "age" (did you mean "aged"?)'),
    "no label": (b"who,age,sex,x\n", 'data.label: t.csv has no column "ill" (it has: who, age, sex, x)'),
    "no client": (b"x,age,sex,ill\n", 'data.client: t.csv has no column "who"'),
    "one row": (b"who,age,sex,ill\na,30,m,no\n", "no usable rows for the test data"),
    "too large": (b"who,age,sex,ill\na,1e300,m,no\na,31,m,no\na,32,f,no\n", "infinite features"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, kind):
    content, words = FILES[kind]
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(words)):
        csv(str(tmp_path / "t.csv"), client="who").load(0)


DECLARED = {
    "no classes": ({"classes": ()}, "data.classes = []"),
    "one class": ({"classes": ("no",)}, "data.classes = ['no']"),
    "class twice": ({"classes": ("no", "yes", "no")}, "each once"),
    "classes of numbers": ({"task": "numbers"}, "data.classes: only used with"),
    "scaled classes": ({"label_std": 2.0}, "data.label_mean and data.label_std"),
    "no features": ({"features": ()}, "data.features = []"),
    "feature twice": ({"features": (FEATURES[0], FEATURES[0])}, '"age" is declared twice'),
    "label as feature": ({"label": "age"}, 'data.label = "age": it is among data.features'),
    "no values": ({"features": (Categorical(name="sex", values=()),)}, 'the values of "sex" are []'),
    "value twice": ({"features": (Categorical(name="sex", values=("m", "m")),)}, "['m', 'm']"),
    "columns and header": ({"columns": ("a",)}, "data.columns: only used with data.header = false"),
    "neither": ({"header": False}, "data.columns is missing"),
    "quote is separator": ({"quote": ","}, "data.separator and data.quote = [',', ',']"),
    "line end separates": ({"separator": "\n"}, "they must differ and end no line"),
    "no file": ({"path": "/nowhere/t.csv"}, "needs the files t.csv"),
    "no name": ({"path": ""}, 'data.path = ""'),
    "folder": ({"path": "/"}, 'data.path = "/"'),
}


@pytest.mark.parametrize("kind", DECLARED)
def test_declarations_that_cannot_be_are_refused(tmp_path, kind):
    changes, words = DECLARED[kind]
    with pytest.raises(BadInput, match=re.escape(words)):
        replace(csv(write(tmp_path / "t.csv", table())), **changes).load(0)
