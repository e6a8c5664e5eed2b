"""Hugging Face data sets from a local directory; skipped where the extra is not installed."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from fedsim.data.huggingface import HuggingFace
from fedsim.errors import BadInput

N = 12
ROWS = {
    "age": list(range(N)),
    "dose": [x / 2 for x in range(N)],
    "pixels": [[x, x + 1, x + 2] for x in range(N)],
    "ragged": [[x] * (1 + x % 2) for x in range(N)],
    "ill": [x % 2 for x in range(N)],
    "site": ["north" if x < 5 else "south" for x in range(N)],
}


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=re.escape('pip install "fedsim[hf]"')):
        HuggingFace(dataset=str(tmp_path), features=("age",), label="ill").load(0)


@pytest.fixture
def hub():
    return pytest.importorskip("datasets", reason="the extra fedsim[hf] is not installed")


@pytest.fixture
def folder(hub, tmp_path):
    """Two splits on disk, the label with names."""
    features = hub.Dataset.from_dict(ROWS).features.copy()
    features["ill"] = hub.ClassLabel(names=["well", "ill"])
    rows = hub.Dataset.from_dict(ROWS, features=features)
    hub.DatasetDict({"train": rows, "test": rows.select(range(4))}).save_to_disk(str(tmp_path / "saved"))
    return str(tmp_path / "saved")


def test_declared_columns_become_features_labels_and_owners(folder):
    data = HuggingFace(
        dataset=folder, features=("age", "dose"), label="ill", client="site", test_split="test", scale=2.0
    ).load(0)
    np.testing.assert_array_equal(data.train.features, np.stack([ROWS["age"], ROWS["dose"]], 1) / np.float32(2))
    assert data.train.labels.tolist() == ROWS["ill"]
    assert [data.owners[owner] for owner in data.train.owners] == ROWS["site"]
    assert data.names == ("well", "ill")
    assert len(data.test) == 4


def test_a_column_of_arrays_and_a_number_to_predict(folder):
    data = HuggingFace(dataset=folder, features=("pixels",), label="dose", test_fraction=0.25).load(0)
    assert data.kind == "numbers"
    assert (len(data.train), len(data.test)) == (9, 3)
    np.testing.assert_array_equal(data.train.features[:, 0], 2 * data.train.labels[:, 0])


def test_images_have_their_channels_first(hub, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    arrays = [np.full((4, 5, 3), [x, x + 1, x + 2], np.uint8) for x in range(6)]
    table = {"image": [image.fromarray(array) for array in arrays], "label": [0, 1] * 3}
    hub.Dataset.from_dict(table).cast_column("image", hub.Image()).save_to_disk(str(tmp_path / "images"))
    data = HuggingFace(dataset=str(tmp_path / "images"), features=("image",), label="label", test_fraction=0.5).load(0)
    assert data.shape == (3, 4, 5)
    first = data.train.features[0]
    assert (first[1] - first[0] == 1).all()
    assert (first == first[:, :1, :1]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": ("age", "height")}, "has no column height; it has: age, dose"),
        ({"label": "site"}, "labels must be numbers"),
        ({"features": ("site",)}, "features must be numbers"),
        ({"features": ("age", "pixels")}, "several columns must be numbers, one each"),
        ({"features": ("ragged",)}, "column ragged, cannot be read"),
        ({"test_split": "validation"}, 'has no split "validation"; it has: train, test'),
        ({"train_split": "all"}, 'has no split "all"'),
    ],
)
def test_what_a_directory_lacks_is_named(folder, changes, words):
    settings = {"dataset": folder, "features": ("age",), "label": "ill"} | changes
    with pytest.raises(BadInput, match=re.escape(words)):
        HuggingFace(**settings).load(0)


def test_a_name_of_the_hub_is_looked_for_in_fedsim_data_and_never_downloaded(folder, tmp_path, monkeypatch):
    import socket

    def no_network(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    settings = {"dataset": "some/table", "features": ("age",), "label": "ill"}
    with pytest.raises(BadInput, match="fedsim data fetch hf --dataset some/table"):
        HuggingFace(**settings).load(0)
    (tmp_path / "hf").mkdir()
    (tmp_path / "saved").rename(tmp_path / "hf" / "some--table")
    assert len(HuggingFace(**settings).load(0).train) == 10


def test_a_directory_of_something_else_is_refused(hub, tmp_path):
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(BadInput, match="is not a directory written by save_to_disk"):
        HuggingFace(dataset=str(tmp_path), features=("age",), label="ill").load(0)
