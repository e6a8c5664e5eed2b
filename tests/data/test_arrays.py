"""Arrays of your own: npz files, folders of npy files, and functions by import path."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import fedsim
from fedsim.data import CustomData, Dataset, Examples
from fedsim.data.npy import Archive
from fedsim.data.npz import Npz
from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from tests.conftest import SMALL

N = 20
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 3)).astype(np.float32), np.arange(N) % 4


def saved(folder: Path, save=np.savez, **values: np.ndarray) -> str:
    """An npz file or a folder of npy files; returns its path."""
    if save is np.save:
        for name, value in values.items():
            np.save(folder / f"{name}.npy", value)
        return str(folder)
    save(folder / "data.npz", **values)
    return str(folder / "data.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed, np.save])
def test_a_test_split_is_taken_as_it_is(tmp_path, save):
    path = saved(tmp_path, save, x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    data = Npz(path=path, test_features="x_test", test_labels="y_test").load(0)
    np.testing.assert_array_equal(data.train.features, X)
    np.testing.assert_array_equal(data.test.labels, Y[:5])
    assert data.kind == "classes"
    assert data.names == ("0", "1", "2", "3")
    assert "4 classes, counted off the labels" in data.notes[0]
    mapped = save is not np.savez_compressed
    assert isinstance(data.train.features, np.memmap) == mapped
    torch.from_numpy(data.train.features)[0, 0] = 7  # no warning, and nothing is written to the file
    np.testing.assert_array_equal(
        Npz(path=path, test_features="x_test", test_labels="y_test").load(0).train.features, X
    )


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        st.sampled_from(["u1", "<i2", ">i4", "<f4", ">f8", "?", "<f2"]), arrays.array_shapes(max_dims=3, min_side=0)
    ),
    st.sampled_from([np.savez, np.savez_compressed, np.save]),
    st.booleans(),
)
def test_an_array_is_read_as_it_was_written(tmp_path_factory, values, save, fortran):
    values = np.asfortranarray(values) if fortran else values
    path = Path(saved(tmp_path_factory.mktemp("npz"), save, first=np.zeros(3), a=values))
    found = Archive(path).array("a")
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype


def test_a_held_out_fraction_has_each_record_once_by_the_seed_alone(tmp_path):
    path = saved(tmp_path, x_train=np.arange(N)[:, None], y_train=Y, who=np.array(["b", "a"] * (N // 2)))
    data, again, other = (Npz(path=path, train_owners="who", test_fraction=0.3).load(seed) for seed in (1, 1, 2))
    assert len(data.test) == 6
    assert sorted([*data.train.features[:, 0], *data.test.features[:, 0]]) == list(range(N))
    np.testing.assert_array_equal(data.test.features, again.test.features)
    assert not np.array_equal(data.test.features, other.test.features)
    for split in (data.train, data.test):
        assert [data.owners[owner] for owner in split.owners] == ["ba"[int(x) % 2] for x in split.features[:, 0]]
        assert split.labels.tolist() == [int(x) % 4 for x in split.features[:, 0]]


def test_owners_of_test_records_may_be_others(tmp_path):
    path = saved(tmp_path, x_train=X[:3], y_train=Y[:3], w=np.array([7, 5, 7]), x=X[:2], y=Y[:2], v=np.array([1, 7]))
    data = Npz(
        path=path, train_owners="w", test_features="x", test_labels="y", test_owners="v", names=("a", "b", "c", "d")
    ).load(0)
    assert data.owners == ("5", "7", "1")
    assert data.train.owners.tolist() == [1, 0, 1]
    assert data.test.owners.tolist() == [2, 1]
    assert data.names == ("a", "b", "c", "d")
    assert data.notes == ()


def test_numbers_bytes_and_tokens(tmp_path):
    path = saved(tmp_path, x_train=X, y_train=X[:, 0].astype(np.float64))
    numbers = Npz(path=path, names=("height",)).load(0)
    assert numbers.kind == "numbers"
    assert numbers.train.labels.shape == (16, 1)
    assert numbers.train.labels.dtype == np.float32
    np.testing.assert_array_equal(numbers.train.labels[:, 0], numbers.train.features[:, 0])
    images = RNG.integers(0, 256, (N, 1, 2, 2)).astype(np.uint8)
    path = saved(tmp_path, x_train=images, y_train=Y)
    scaled = Npz(path=path, scale=255.0).load(0)
    assert scaled.train.features.dtype == np.float32
    assert set(np.unique(scaled.train.features)) <= set((np.arange(256, dtype=np.float32) / np.float32(255)).tolist())
    tokens = RNG.integers(0, 9, (N, 5)).astype(np.int16)
    path = saved(tmp_path, x_train=tokens, y_train=Y)
    sequences = Npz(path=path, vocabulary=9).load(0)
    assert (sequences.kind, sequences.vocabulary) == ("classes", 9)
    assert sequences.train.features.dtype == np.int64
    path = saved(tmp_path, x_train=tokens, y_train=tokens)
    following = Npz(path=path, vocabulary=9).load(0)
    assert (following.kind, len(following.names)) == ("tokens", 9)


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({"x_train": X[:0], "y_train": Y[:0]}, {}, "are empty"),
        ({"x_train": X[:, :0]}, {}, "are empty"),
        ({"x_train": np.float32(3)}, {}, "are empty"),
        ({"y_train": Y[:5]}, {}, "different lengths: [20, 5]"),
        ({"x_train": X.astype(str)}, {}, "features must be numbers"),
        ({"x_train": X.astype(complex)}, {}, "features must be numbers"),
        ({"x_train": X.astype(object)}, {}, "Python objects"),
        ({"x_train": X * np.nan}, {}, "NaN or infinite features"),
        ({"x_train": X.astype(float) * 1e300}, {}, "NaN or infinite features"),
        ({"y_train": Y - 1}, {}, "below 0"),
        ({"y_train": Y * 100_000}, {}, "must be named"),
        ({"y_train": Y.astype(np.uint64) + 2**63}, {"names": ("a",)}, "labels outside 0 to 0"),
        ({"y_train": Y}, {"names": ("a", "b")}, "labels outside 0 to 1"),
        ({"y_train": Y.reshape(N, 1)}, {}, "classes are [n]"),
        ({"y_train": X}, {"names": ("a", "b")}, "2 names for 3 numbers"),
        ({"y_train": np.zeros((N, 1, 1))}, {}, "labels are [16, 1, 1]"),
        ({}, {"vocabulary": 5}, "the features must be whole numbers"),
        ({"x_train": np.full((N, 2), 5)}, {"vocabulary": 5}, "features outside 0 to 4"),
        ({}, {"train_labels": "z"}, 'no array "z"; it has: x_train, y_train'),
        ({}, {"test_features": "x_train"}, "give both"),
        ({}, {"test_owners": "y_train"}, "needs data.train_owners"),
        ({"who": X}, {"train_owners": "who"}, "owners must be"),
        ({"who": Y[:3]}, {"train_owners": "who"}, "different lengths"),
        ({}, {"test_fraction": 0.99}, "0 examples"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(tmp_path, changes, options, words):
    path = saved(tmp_path, **{"x_train": X, "y_train": Y} | changes)
    with pytest.raises(BadInput, match=re.escape(words) if words != "0 examples" else "are empty") as caught:
        Npz(path=path, **options).load(0)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match="no such npz file"):
        Npz(path=str(tmp_path / "absent.npz")).load(0)
    with pytest.raises(BadInput, match='no array "x_train"; it has: none'):
        Npz(path=str(tmp_path)).load(0)


def npz_bytes(save) -> bytes:
    out = io.BytesIO()
    save(out, x_train=X, y_train=Y)
    return out.getvalue()


STORED, PACKED = npz_bytes(np.savez), npz_bytes(np.savez_compressed)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from([STORED, PACKED]), st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4))
def test_a_corrupted_npz_is_read_unchanged_or_refused(tmp_path_factory, raw, place, put, taken):
    start = int(place * len(raw))
    folder = tmp_path_factory.mktemp("npz")
    (folder / "x.npz").write_bytes(raw[:start] + put + raw[start + taken :])
    try:
        data = Npz(path=str(folder / "x.npz"), test_features="x_train", test_labels="y_train").load(0)
    except BadInput:
        return
    np.testing.assert_array_equal(data.train.features, X)  # the checksums of the file see every change
    np.testing.assert_array_equal(data.train.labels, Y)


def test_a_changed_value_in_a_mapped_npz_is_noticed(tmp_path):
    raw = bytearray(STORED)
    raw[raw.index(X.tobytes()) + 5] ^= 1
    (tmp_path / "x.npz").write_bytes(raw)
    with pytest.raises(BadInput, match="CRC"):
        Npz(path=str(tmp_path / "x.npz")).load(0)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 140), st.binary(max_size=4), st.integers(0, 4))
def test_a_corrupted_npy_is_read_or_refused(tmp_path_factory, start, put, taken):
    folder = tmp_path_factory.mktemp("npy")
    saved(folder, np.save, x_train=X, y_train=Y)
    raw = (folder / "x_train.npy").read_bytes()
    (folder / "x_train.npy").write_bytes(raw[:start] + put + raw[start + taken :])
    try:
        data = Npz(path=str(folder)).load(0)
    except BadInput:
        return
    assert isinstance(data, Dataset)


def test_an_npz_of_other_members_and_of_headers_that_lie_is_refused(tmp_path):
    def header(text: str) -> bytes:
        return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()

    lying = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    evil = "__import__('os').mkdir('x')"
    members = {"lies.npy": header(lying), "evil.npy": header(evil), "v9.npy": b"\x93NUMPY\x09\x00", "rest.txt": b""}
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert Archive(tmp_path / "x.npz").names() == ["lies", "evil", "v9"]
    for name, words in (("lies", "torn"), ("evil", "cannot be read"), ("v9", "unknown version")):
        with pytest.raises(BadInput, match=words):
            Archive(tmp_path / "x.npz").array(name)


def test_an_npz_runs(tmp_path):
    path = saved(tmp_path, x_train=np.tile(X, (5, 1)), y_train=np.tile(Y, 5))
    overrides = [f'data={{source="npz", path="{path}"}}', "rounds=1"]
    result = fedsim.run(parse_scenario(SMALL, "tiny", overrides), tmp_path / "run")
    assert set(result.metrics) >= {"loss", "accuracy"}


# A function by import path

MODULE = '''
import numpy as np
from fedsim.data import Dataset, Examples
from fedsim.errors import BadInput

def load(records=60, shift=0.0):
    """Two clusters of points."""
    rng = np.random.default_rng(0)
    labels = np.arange(records) % 2
    points = (rng.normal(size=(records, 2)) + 3 * labels[:, None] + shift).astype(np.float32)
    train, test = slice(0, records * 2 // 3), slice(records * 2 // 3, None)
    owners = np.arange(len(labels[train])) % 6
    return Dataset(
        Examples(points[train], labels[train], owners), Examples(points[test], labels[test]), ("left", "right"),
        owners=tuple("abcdef"),
    )

def four(): return load().train.features, load().train.labels, load().test.features, load().test.labels
def read_only():
    parts = [part.copy() for part in four()]
    for part in parts: part.flags.writeable = False
    return parts
def three(): return 1, 2, 3
def ragged(): return [[1], [2, 3]], [0, 1], [[1]], [0]
def fails(): raise ZeroDivisionError("by nothing.")
def refuses(): raise BadInput("There is no such table.")
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "their_data.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "their_data"
    import sys

    sys.modules.pop("their_data", None)


def test_a_function_of_your_own_is_a_source(module, tmp_path):
    text = SMALL.replace('source = "digits"', f'source = "{module}:load"\nsettings = {{ records = 90, shift = 1.0 }}')
    scenario = parse_scenario(text, "tiny", ["rounds=20"])
    assert parse_scenario(scenario.to_toml(), "x") == scenario
    result = fedsim.run(scenario, tmp_path / "run")
    assert result.metrics["accuracy"] > 0.9
    data = CustomData(f"{module}:load", {"records": 30}).load(0)
    assert data.names == ("left", "right")
    assert len(data.train) == 20


def test_four_arrays_are_a_data_set(module):
    whole, data = CustomData(f"{module}:load").load(0), CustomData(f"{module}:four").load(0)
    assert isinstance(data.train, Examples)
    np.testing.assert_array_equal(data.train.features, whole.train.features)
    np.testing.assert_array_equal(data.test.labels, whole.test.labels)
    torch.from_numpy(CustomData(f"{module}:read_only").load(0).train.features)  # no warning


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("absent", "cannot be imported"),
        ("three", "returned a tuple, neither a fedsim.data.Dataset nor"),
        ("ragged", "could not be loaded"),
        ("fails", "could not be loaded: by nothing."),
        ("refuses", "There is no such table."),
    ],
)
def test_a_function_that_fails_is_refused(module, function, words):
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        CustomData(f"{module}:{function}").load(0)
    assert f'data.source = "{module}:{function}"' in str(caught.value)


def test_unknown_settings_are_the_functions_to_refuse_and_nan_is_named(module):
    with pytest.raises(BadInput, match="unexpected keyword argument 'speed'"):
        CustomData(f"{module}:load", {"speed": 1}).load(0)
    with pytest.raises(BadInput, match=r"data.settings.shift = nan: must be a finite number"):
        parse_scenario(SMALL, "x", [f'data={{source="{module}:load", settings={{shift=nan}}}}'])
