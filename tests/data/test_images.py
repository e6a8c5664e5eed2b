"""Images: MNIST's writers, Fashion-MNIST, CIFAR-10, and the decoded copies that make loading quick."""

from __future__ import annotations

import gzip
import logging
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import decoded as copies
from fedsim.data.cifar10 import BATCHES, Cifar10
from fedsim.data.fashion_mnist import FashionMnist
from fedsim.data.idx import read_idx
from fedsim.data.images import Scale
from fedsim.data.mnist import FILES, Mnist
from fedsim.errors import BadInput

needs_data = pytest.mark.skipif(not os.environ.get("FEDSIM_DATA"), reason="FEDSIM_DATA is not set: no real data here")


def idx_bytes(values: np.ndarray) -> bytes:
    code = {"uint8": 8, "int32": 12}[values.dtype.name]
    sizes = struct.pack(f">{values.ndim}I", *values.shape)
    return bytes([0, 0, code, values.ndim]) + sizes + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_idx(folder: Path, labels=(0, 9, 3, 3), side: int = 2) -> Path:
    images = np.arange(len(labels) * side * side).astype(np.uint8).reshape(len(labels), side, side)
    for name in FILES:
        values = images if "images" in name else np.array(labels, np.uint8)
        (folder / name).write_bytes(idx_bytes(values))
    return folder


def write_writers(folder: Path, split: str, rows: list[tuple[int, int, int]], name: str | None = None) -> None:
    table = np.zeros((len(rows), 8), np.int32)
    table[:, :3] = rows
    (folder / (name or f"qmnist-{split}-labels-idx2-int.gz")).write_bytes(gzip.compress(idx_bytes(table)))


# MNIST's writers


def test_writers_are_the_third_column_and_test_rows_beyond_mnist_are_left_out(tmp_path):
    write_idx(tmp_path)
    write_writers(tmp_path, "train", [(0, 4, 2154), (9, 0, 30), (3, 4, 2154), (3, 0, 31)])
    write_writers(tmp_path, "test", [(0, 4, 7), (9, 0, 30), (3, 0, 8), (3, 0, 7), (5, 0, 9)])
    data = Mnist(path=str(tmp_path)).load(0)
    train, test = ([data.owners[owner] for owner in split.owners] for split in (data.train, data.test))
    assert train == ["writer 2154", "writer 30", "writer 2154", "writer 31"]
    assert test == ["writer 7", "writer 30", "writer 8", "writer 7"]
    assert set(data.train.owners.tolist()) == {0, 1, 2}, "those of training images come first"
    assert len(data.owners) == 5


def test_without_qmnist_there_are_no_owners(tmp_path):
    data = Mnist(path=str(write_idx(tmp_path))).load(0)
    assert data.train.owners is None
    assert data.owners == ()


ROWS = [(0, 0, 1), (9, 0, 1), (3, 0, 2), (3, 0, 2)]


@pytest.mark.parametrize(
    ("test_rows", "words"),
    [
        (None, "lacks qmnist-test-labels-idx2-int"),
        ([*ROWS[:2], (4, 0, 2), ROWS[3]], "the digit of image 2 differs"),
        (ROWS[:3], "4 rows of 8 columns are expected"),
    ],
    ids=["one file only", "other digits", "too short"],
)
def test_writers_of_other_images_are_refused(tmp_path, test_rows, words):
    write_idx(tmp_path)
    write_writers(tmp_path, "train", ROWS)
    if test_rows:
        write_writers(tmp_path, "test", test_rows)
    with pytest.raises(BadInput, match=words):
        Mnist(path=str(tmp_path)).load(0)


def test_a_qmnist_file_of_bytes_or_torn_is_refused(tmp_path):
    write_idx(tmp_path)
    write_writers(tmp_path, "test", ROWS)
    file = tmp_path / "qmnist-train-labels-idx2-int"
    torn = b"\0\0\x0c\x01\0\0\0\2" + b"\0" * 7
    for content, words in [(idx_bytes(np.zeros((4, 8), np.uint8)), "32-bit"), (torn, "torn")]:
        file.write_bytes(content)
        with pytest.raises(BadInput, match=words):
            Mnist(path=str(tmp_path)).load(0)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["u1", ">i4"]), st.sampled_from(["", ".gz", ".xz"]))
def test_no_bytes_are_more_than_bad_input(tmp_path_factory, content, dtype, suffix):
    file = tmp_path_factory.mktemp("idx") / f"x{suffix}"
    file.write_bytes(b"\0\0" + bytes([8 if dtype == "u1" else 12]) + content if not suffix else content)
    try:
        values = read_idx(file, dtype)
    except BadInput:
        return
    assert values.nbytes == len(content) - 1 - 4 * values.ndim


@pytest.fixture(scope="module")
def mnist():
    if not os.environ.get("FEDSIM_DATA"):
        pytest.skip("FEDSIM_DATA is not set: no real data here")
    return Mnist().load(0)


def test_real_mnist_has_539_writers_and_others_for_testing(mnist):
    data = mnist
    if not data.owners:
        pytest.skip("the QMNIST label files are not here")
    assert len(np.unique(data.train.owners)) == 539
    assert data.train.owners.max() == 538
    assert len(np.unique(data.test.owners)) == 297
    assert not set(data.train.owners.tolist()) & set(data.test.owners.tolist())
    assert data.owners[data.train.owners[0]] == "writer 2154"


# Fashion-MNIST


@needs_data
def test_real_fashion_mnist_is_the_published_set():
    data = FashionMnist().load(0)
    assert data.train.features.shape == (60_000, 1, 28, 28)
    assert data.test.features.shape == (10_000, 1, 28, 28)
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert abs(data.train.features.mean(dtype=np.float64)) < 1e-3
    assert abs(data.train.features.std(dtype=np.float64) - 1) < 1e-3
    assert data.names[data.train.labels[0]] == "ankle boot"  # the first picture of the data set's own page


def test_fashion_mnist_uses_its_own_scale_and_names(tmp_path):
    data = FashionMnist(path=str(write_idx(tmp_path))).load(0)
    expected = (np.arange(16).reshape(4, 1, 2, 2) / 255 - 0.2860) / 0.3530
    np.testing.assert_allclose(data.train.features, expected, rtol=1e-5, atol=1e-6)
    assert data.names[9] == "ankle boot"


# CIFAR-10


def cifar_images(records: int) -> np.ndarray:
    return np.random.default_rng(records).integers(0, 256, (records, 32, 32, 3)).astype(np.uint8)


def scaled_slowly(images: np.ndarray) -> np.ndarray:
    mean, deviation = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    return ((images / 255 - mean) / deviation).transpose(0, 3, 1, 2)


def write_batches(folder: Path, protocol: int = 2) -> dict[str, np.ndarray]:
    """Batches as published: rows of 3072 bytes, all red, all green, all blue."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, name in enumerate(BATCHES):
        images = written[name] = cifar_images(number + 1)
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
        table = {b"batch_label": b"x", b"labels": [number] * len(images), b"data": rows, b"filenames": [b"a.png"]}
        (folder / name).write_bytes(pickle.dumps(table, protocol))
    return written


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-py"])
def test_cifar_batches_keep_their_order_channels_and_public_scale(tmp_path, inside):
    written = write_batches(tmp_path / inside)
    data = Cifar10(path=str(tmp_path)).load(0)
    train = np.concatenate([written[name] for name in BATCHES[:-1]])
    np.testing.assert_allclose(data.train.features, scaled_slowly(train), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(data.test.features, scaled_slowly(written["test_batch"]), rtol=1e-5, atol=1e-5)
    assert data.train.labels.tolist() == [0, 1, 1, 2, 2, 2, *[3] * 4, *[4] * 5]
    assert data.test.labels.tolist() == [5] * 6
    assert data.names[5] == "dog"


def npz_arrays(**changes: object) -> dict[str, np.ndarray]:
    images = cifar_images(3)
    labels = np.array([0, 9, 2], np.uint8)
    return {"x_train": images, "y_train": labels, "x_test": images[:2], "y_test": labels[:2]} | changes


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_cifar_npz_is_read(tmp_path, save):
    save(tmp_path / "cifar10_subset.npz", **npz_arrays(y_train=np.array([[0], [9], [2]])))
    data = Cifar10(path=str(tmp_path)).load(0)
    np.testing.assert_allclose(data.train.features, scaled_slowly(cifar_images(3)), rtol=1e-5, atol=1e-5)
    assert data.train.labels.tolist() == [0, 9, 2]
    assert "cifar10_subset.npz: 3 + 2 images" in data.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((3, 32, 32, 3), np.float32)}, "type float32"),
        ({"x_train": np.zeros((3, 3, 32, 32), np.uint8)}, "32, 32, 3"),
        ({"x_train": np.zeros((2, 32, 32, 3), np.uint8)}, "2 examples and 3 labels"),
        ({"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, np.uint8)}, "0 examples"),
        ({"y_train": np.array([0, 1, 10], np.uint8)}, "labels outside 0 to 9"),
        ({"y_train": np.array([0.0, 1.0, 2.0])}, "type float64"),
        ({"y_train": np.array([{}, 1, 2], object)}, "Python objects"),
    ],
    ids=["floats", "channels first", "lengths", "empty", "no class", "float labels", "objects"],
)
def test_a_wrong_cifar_npz_is_refused(tmp_path, changes, words):
    np.savez(tmp_path / "cifar10.npz", **npz_arrays(**changes))
    with pytest.raises(BadInput, match=words):
        Cifar10(path=str(tmp_path)).load(0)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({b"labels": [1]}, 'no array "data"'),
        ({b"data": np.zeros((1, 3072), np.uint8)}, 'no list "labels"'),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, "classes 0 to 9"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"labels": [True]}, "classes 0 to 9"),
        ({b"data": np.zeros((1, 3071), np.uint8), b"labels": [1]}, "3072"),
        ([1, 2], "not a pickled table"),
    ],
)
def test_a_wrong_cifar_batch_is_refused(tmp_path, table, words):
    write_batches(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps(table, 2))
    with pytest.raises(BadInput, match=words):
        Cifar10(path=str(tmp_path)).load(0)


def test_a_missing_cifar_names_every_set_of_files_that_would_do(tmp_path):
    with pytest.raises(BadInput) as caught:
        Cifar10(path=str(tmp_path)).load(0)
    assert all(word in str(caught.value) for word in ("data_batch_5", "test_batch", "cifar10.npz", "cs.toronto.edu"))


@needs_data
def test_the_real_cifar_subset_is_read():
    data = Cifar10().load(0)
    assert data.shape == (3, 32, 32)
    assert len(data.train) >= 10_000
    assert np.bincount(data.train.labels, minlength=10).min() > 0
    # The constants are those of all 50,000 images.
    np.testing.assert_allclose(data.train.features.mean((0, 2, 3), dtype=np.float64), 0, atol=0.03)
    np.testing.assert_allclose(data.train.features.std((0, 2, 3), dtype=np.float64), 1, atol=0.03)


# Scaling and the decoded copies


def test_scaling_in_parts_is_scaling_at_once():
    images = np.random.default_rng(0).integers(0, 256, (300, 3, 4, 5)).astype(np.uint8)
    scale = Scale((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    at_once = images.astype(np.float32)
    at_once -= np.float32(255) * np.array([0.1, 0.2, 0.3], np.float32)[:, None, None]
    at_once /= np.float32(255) * np.array([0.4, 0.5, 0.6], np.float32)[:, None, None]
    np.testing.assert_array_equal(scale.apply(images), at_once)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache in which everything is worth keeping, a file, and how often it was decoded."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(copies, "WORTH_BYTES", 0)
    (tmp_path / "file").write_bytes(b"12")
    calls = []

    def load(constants: str = "", file: str = "file", name: str = "set-train"):
        def decode():
            calls.append(file)
            return np.frombuffer((tmp_path / file).read_bytes(), np.uint8).astype(np.float32)

        return copies.decoded(name, [tmp_path / file], constants, decode)

    return load, calls, tmp_path


def test_a_kept_copy_is_mapped_not_decoded_again(kept):
    load, calls, _ = kept
    first, second = load(), load()
    np.testing.assert_array_equal(first, [49, 50])
    np.testing.assert_array_equal(second, first)
    assert isinstance(second, np.memmap)
    assert calls == ["file"]
    torch.from_numpy(second)  # no warning of arrays that must not be written to
    second[0] = 7  # copy-on-write
    np.testing.assert_array_equal(load(), [49, 50])


def test_a_changed_file_or_constant_is_decoded_again_and_the_old_copy_goes(kept):
    load, calls, folder = kept
    load()
    (folder / "file").write_bytes(b"345")
    np.testing.assert_array_equal(load(), [51, 52, 53])
    os.utime(folder / "file", ns=(1, 1))
    load()
    load("another")
    assert len(calls) == 4
    assert len(list((folder / "cache" / "data").iterdir())) == 1
    load(name="set-test")
    assert len(list((folder / "cache" / "data").iterdir())) == 2


def test_a_torn_copy_is_made_anew(kept, caplog):
    load, calls, folder = kept
    load()
    copy = next((folder / "cache" / "data").iterdir())
    copy.write_bytes(copy.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(load(), [49, 50])
    assert len(calls) == 2
    assert "made anew" in caplog.text
    np.testing.assert_array_equal(np.load(copy), [49, 50])


def test_a_cache_that_cannot_be_written_is_said_and_does_not_matter(kept, caplog):
    load, calls, folder = kept
    (folder / "cache").write_text("a file where the folder belongs")
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(load(), [49, 50])
    assert "cannot be kept" in caplog.text
    assert len(calls) == 1


def test_nothing_is_kept_without_a_cache_or_of_small_arrays(kept, monkeypatch):
    load, calls, folder = kept
    monkeypatch.setattr(copies, "WORTH_BYTES", 100)
    load()
    assert not (folder / "cache").exists()
    monkeypatch.setattr(copies, "WORTH_BYTES", 0)
    monkeypatch.setenv("FEDSIM_CACHE", "")
    load()
    assert len(calls) == 2
    assert not (folder / "cache").exists()


def test_a_second_load_of_mnist_is_the_same_and_mapped(mnist):
    again = Mnist().load(1)
    assert isinstance(again.train.features, np.memmap)
    np.testing.assert_array_equal(again.train.features, mnist.train.features)
    np.testing.assert_array_equal(again.train.labels, mnist.train.labels)
    np.testing.assert_array_equal(again.test.owners, mnist.test.owners)
