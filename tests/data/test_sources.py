"""Data sources: the published data, whole and unchanged, and a clear refusal of files that are not."""

from __future__ import annotations

import gzip
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.datasets import load_digits

from fedsim.data import SOURCES, Dataset, Digits, Examples, Mnist
from fedsim.data.idx import read_idx
from fedsim.data.mnist import MEAN, STANDARD_DEVIATION
from fedsim.errors import BadInput

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(values: np.ndarray) -> bytes:
    """The format as published: two zero bytes, type 8, number of dimensions, sizes big-endian, the values."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def write_mnist(folder: Path, records: int = 4, labels: list[int] | None = None, zipped: bool = False) -> Path:
    """Four files with tiny images whose values tell which record they are."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.arange(records * 6, dtype=np.uint8).reshape(records, 2, 3)
    for name in FILES:
        raw = idx_bytes(images if "images" in name else np.array(labels or [0, 9, 3, 3][:records], np.uint8))
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(raw) if zipped else raw)
    return folder


# Digits


def test_digits_are_scikit_learns_records_each_once_in_training_or_test():
    data = Digits().load(0)
    assert len(data.train) + len(data.test) == 1797
    assert len(data.test) == round(0.2 * 1797)
    assert data.shape == (1, 8, 8)
    assert data.names == tuple("0123456789")
    assert data.train.features.dtype == np.float32
    assert data.train.labels.dtype == np.int64
    published = load_digits()
    rows = np.concatenate([data.train.features, data.test.features]).reshape(1797, 64) * 16
    labels = np.concatenate([data.train.labels, data.test.labels])
    ours = np.column_stack([labels, rows])
    theirs = np.column_stack([published.target, published.data])
    np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_digits_lie_between_zero_and_one_and_use_the_whole_range():
    data = Digits().load(0)
    for split in (data.train, data.test):
        assert split.features.min() == 0
        assert split.features.max() == 1


@pytest.mark.parametrize("fraction", [1e-6, 0.01, 0.5, 0.999])
def test_the_test_fraction_of_digits_is_held_out(fraction):
    data = Digits(test_fraction=fraction).load(1)
    assert len(data.test) == max(1, round(fraction * 1797))
    assert len(data.train) == 1797 - len(data.test)


def test_a_test_fraction_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(BadInput, match="training data has 0 examples"):
        Digits(test_fraction=0.9999).load(0)


def test_the_split_of_digits_depends_on_the_seed_alone():
    first, again, other = Digits().load(3), Digits().load(3), Digits().load(4)
    np.testing.assert_array_equal(first.train.features, again.train.features)
    np.testing.assert_array_equal(first.test.labels, again.test.labels)
    assert not np.array_equal(first.test.labels, other.test.labels)


# IDX files


@settings(max_examples=40, deadline=None)
@given(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)), st.booleans())
def test_an_idx_file_is_read_as_it_was_written(tmp_path_factory, values, zipped):
    file = tmp_path_factory.mktemp("idx") / ("x.gz" if zipped else "x")
    file.write_bytes(gzip.compress(idx_bytes(values)) if zipped else idx_bytes(values))
    np.testing.assert_array_equal(read_idx(file), values)


def test_an_idx_file_written_by_hand_is_read(tmp_path):
    file = tmp_path / "hand"
    file.write_bytes(bytes.fromhex("00000802 00000002 00000003 01 02 03 04 05 ff"))
    np.testing.assert_array_equal(read_idx(file), [[1, 2, 3], [4, 5, 255]])


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 4))
BROKEN = {
    "empty": (b"", "not an IDX file"),
    "three bytes": (GOOD[:3], "not an IDX file"),
    "no sizes": (GOOD[:10], "not an IDX file"),
    "wrong magic": (b"PK\x08\x02" + GOOD[4:], "not an IDX file"),
    "of floats": (b"\0\0\x0d\x02" + GOOD[4:], "not an IDX file"),
    "torn": (GOOD[:-1], "announces 12 values but holds 11"),
    "no values": (GOOD[:12], "announces 12 values but holds 0"),
    "too long": (GOOD + b"\0", "announces 12 values but holds 13"),
    "sizes overflow": (b"\0\0\x08\x03" + b"\xff" * 12 + b"\0" * 8, "it is torn"),
}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_idx_file_is_refused_by_name(tmp_path, kind, zipped):
    content, words = BROKEN[kind]
    file = tmp_path / ("x.gz" if zipped else "x")
    file.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(BadInput, match=re.escape(str(file))) as caught:
        read_idx(file)
    assert words in str(caught.value)


ZIPPED = gzip.compress(GOOD * 100)


@pytest.mark.parametrize(
    "content",
    [GOOD, ZIPPED[:-1], ZIPPED[:20], ZIPPED[:5], ZIPPED[:-8] + b"\0" * 8, ZIPPED[:12] + b"\xff" * 8 + ZIPPED[20:]],
    ids=["not gzip", "torn by one", "torn", "torn header", "wrong checksum", "garbage inside"],
)
def test_a_broken_gzip_file_is_refused_by_name(tmp_path, content):
    file = tmp_path / "x.gz"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(str(file))):
        read_idx(file)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40), st.booleans())
def test_no_file_content_is_more_than_bad_input(tmp_path_factory, content, zipped):
    file = tmp_path_factory.mktemp("idx") / ("x.gz" if zipped else "x")
    file.write_bytes(content)
    try:
        values = read_idx(file)
    except BadInput:
        return
    assert idx_bytes(values) in (content, gzip.decompress(content) if zipped else content)


# MNIST's files, and where they are looked for


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gz"])
def test_mnist_images_keep_their_order_labels_and_public_scale(tmp_path, zipped):
    data = Mnist(path=str(write_mnist(tmp_path, zipped=zipped))).load(0)
    assert data.shape == (1, 2, 3)
    assert data.train.labels.tolist() == [0, 9, 3, 3]
    expected = (np.arange(24).reshape(4, 1, 2, 3) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(data.train.features, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.test.features, expected, rtol=1e-5, atol=1e-6)


def test_the_path_comes_before_the_environment(tmp_path, monkeypatch):
    write_mnist(tmp_path / "root" / "mnist", records=4)
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path / "root"))
    assert len(Mnist().load(0).train) == 4
    named = write_mnist(tmp_path / "named", records=2)
    assert len(Mnist(path=str(named)).load(0).train) == 2
    with pytest.raises(BadInput, match="empty"):  # a path that lacks the files does not fall back
        Mnist(path=str(tmp_path / "empty")).load(0)


def test_missing_files_are_named_with_the_folders_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist" / FILES[3]).unlink()
    with pytest.raises(BadInput) as caught:
        Mnist().load(0)
    message = str(caught.value)
    assert FILES[3] in message
    assert str(tmp_path / "mnist") in message
    assert "yann.lecun.com" in message
    assert 'into the folder "mnist" of FEDSIM_DATA: fedsim data fetch mnist' in message
    for path in (None, str(tmp_path / "elsewhere")):
        monkeypatch.delenv("FEDSIM_DATA", raising=False)
        with pytest.raises(BadInput) as caught:
            Mnist(path=path).load(0)
        assert all(name in str(caught.value) for name in FILES)
        assert (path or "FEDSIM_DATA") in str(caught.value)


def test_a_label_that_is_no_class_is_refused(tmp_path):
    with pytest.raises(BadInput, match="labels outside 0 to 9"):
        Mnist(path=str(write_mnist(tmp_path, labels=[0, 1, 2, 10]))).load(0)


def test_files_with_different_numbers_of_images_and_labels_are_refused(tmp_path):
    with pytest.raises(BadInput, match="4 examples and 3 labels"):
        Mnist(path=str(write_mnist(tmp_path, labels=[0, 1, 2]))).load(0)


def test_swapped_files_are_refused(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / FILES[0]).write_bytes((tmp_path / FILES[1]).read_bytes())
    with pytest.raises(BadInput, match="dimensions"):
        Mnist(path=str(tmp_path)).load(0)


def test_real_mnist_is_the_published_set():
    root = os.environ.get("FEDSIM_DATA")
    if not root:
        pytest.skip("FEDSIM_DATA is not set, so there is no MNIST here")
    data = Mnist().load(0)
    assert data.train.features.shape == (60_000, 1, 28, 28)
    assert data.test.features.shape == (10_000, 1, 28, 28)
    assert data.train.features.dtype == np.float32
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.train.labels).tolist() == counts
    assert np.bincount(data.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The constants MEAN and STANDARD_DEVIATION are those of this very set.
    assert abs(data.train.features.mean(dtype=np.float64)) < 1e-3
    assert abs(data.train.features.std(dtype=np.float64) - 1) < 1e-3
    assert data.train.features.min() == pytest.approx(-MEAN / STANDARD_DEVIATION, rel=1e-5)
    assert data.train.features.max() == pytest.approx((1 - MEAN) / STANDARD_DEVIATION, rel=1e-5)


# What every source loads into


def examples(records: int = 5, **changes: object) -> Examples:
    features = np.zeros((records, 2, 2), np.float32)
    labels = np.arange(records, dtype=np.int64) % 3
    for where, value in changes.items():
        if where == "feature":
            features[3, 1, 0] = value
        else:
            labels[3] = value
    return Examples(features, labels)


@pytest.mark.parametrize("split", ["training", "test"])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (examples(feature=np.nan), "1 examples with NaN or infinite features (the first is number 3)"),
        (examples(feature=np.inf), "NaN or infinite"),
        (examples(feature=-np.inf), "NaN or infinite"),
        (examples(0), "0 examples and 0 labels"),
        (Examples(np.zeros((5, 2, 2), np.float32), np.zeros(4, np.int64)), "5 examples and 4 labels"),
        (examples(label=3), "labels outside 0 to 2"),
        (examples(label=-1), "labels outside 0 to 2"),
        (Examples(np.zeros((5, 2, 2)), np.zeros(5, np.int64)), "features of type float64; they must be float32"),
        (Examples(np.zeros((5, 2, 2), np.float32), np.zeros(5, np.int32)), "labels of type int32; they must be int64"),
        (Examples(np.zeros((5, 2, 2), np.float32), np.zeros((5, 1), np.int64)), "labels [5, 1]; classes have 1"),
    ],
    ids=[
        "nan",
        "inf",
        "-inf",
        "empty",
        "lengths",
        "label too large",
        "label negative",
        "doubles",
        "short labels",
        "two",
    ],
)
def test_bad_examples_are_refused_in_either_split(split, bad, words):
    parts = (bad, examples()) if split == "training" else (examples(), bad)
    with pytest.raises(BadInput, match=re.escape(words)) as caught:
        Dataset(*parts, ("a", "b", "c"))
    assert split in str(caught.value)


def test_splits_of_different_shape_are_refused():
    with pytest.raises(BadInput, match="different shapes"):
        Dataset(examples(), Examples(np.zeros((5, 4), np.float32), np.zeros(5, np.int64)), ("a", "b", "c"))


def test_every_source_says_what_it_is_in_one_line():
    for source in SOURCES.values():
        assert source.__doc__.splitlines()[0].endswith(".")
