"""Reconstruction against plain PyTorch and closed forms; what it refuses; the pictures it leaves."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import fedsim
from fedsim.data import Digits
from fedsim.data.dataset import Dataset, Examples
from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from fedsim.models import Mlp
from fedsim.tasks import Reconstruction, Task
from tests.conftest import SMALL
from tests.tasks.made import Made

CPU = torch.device("cpu")


def images(shape=(4, 2, 3, 3), seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_losses_and_gradients_are_torchs(loss):
    objective, labels = Reconstruction(loss=loss), images()
    outputs = (images(seed=1) * 4 - 2).requires_grad_()
    plain = functional.mse_loss if loss == "mse" else functional.binary_cross_entropy_with_logits
    expected = torch.stack([plain(o, y) for o, y in zip(outputs, labels, strict=True)])
    torch.testing.assert_close(objective.losses(outputs, labels), expected)
    gradient = torch.autograd.grad(expected.sum(), outputs)[0]
    torch.testing.assert_close(objective.gradient(outputs.detach(), labels), gradient)


def judged(objective, outputs, labels):
    return objective.metrics(objective.measure(outputs, labels).double().numpy(), labels.numpy())


def test_psnr_in_closed_form():
    """An error of a tenth of the range everywhere is 20 dB."""
    labels = images() * 5 - 2
    found = judged(Reconstruction(lowest=-2, highest=3), labels + 0.5, labels)
    assert found["mse"] == pytest.approx(0.25)
    assert found["loss"] == found["mse"]
    assert found["psnr"] == pytest.approx(20)
    assert judged(Reconstruction(), labels, labels)["psnr"] == math.inf
    assert judged(Reconstruction(), labels + math.inf, labels)["psnr"] == -math.inf
    assert math.isnan(judged(Reconstruction(), labels * math.nan, labels)["psnr"])


def test_bce_is_of_logits_and_its_errors_of_probabilities():
    found = judged(Reconstruction(loss="bce"), torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2))
    assert found["loss"] == pytest.approx(math.log(2))
    assert found["mse"] == pytest.approx(0.25)
    assert found["psnr"] == pytest.approx(10 * math.log10(4))


@pytest.mark.parametrize(
    ("settings", "scale", "words"),
    [
        ({}, 2.0, "the training data has values outside"),
        ({"lowest": 0.1}, 1.0, r"task.lowest = 0.1, task.highest = 1: the training data"),
        ({"loss": "bce"}, 1.5, "the training data has values outside"),
        ({"loss": "bce", "highest": 2.0}, 1.0, r'"bce" needs data in \[0, 1\]'),
        ({"lowest": 1.0}, 1.0, "must be above"),
        ({"highest": math.inf}, 1.0, "both finite"),
    ],
)
def test_data_outside_of_the_declared_range_are_refused(settings, scale, words):
    data = Made().load(0)
    train = Examples(data.train.features * np.float32(scale), data.train.labels)
    with pytest.raises(BadInput, match=words):
        Task.of(Reconstruction(**settings), replace(data, train=train), CPU)


def test_a_test_record_outside_of_the_range_is_refused_too_and_texts_always():
    data = Made().load(0)
    test = Examples(data.test.features - np.float32(1), data.test.labels)
    with pytest.raises(BadInput, match="the test data has values outside"):
        Task.of(Reconstruction(), replace(data, test=test), CPU)
    with pytest.raises(BadInput, match="texts"):
        Task.of(Reconstruction(), Made(kind="tokens").load(0), CPU)


def test_any_labels_will_do_and_none_is_read():
    data = Made(kind="numbers").load(0)
    task = Task.of(Reconstruction(), data, CPU)
    assert torch.equal(task.labels, task.features)
    assert task.signature.outputs == task.signature.inputs == (6,)


def test_pictures_are_the_first_test_images_and_what_is_made_of_them():
    data = Digits().load(0)
    task = Task.of(Reconstruction(), data, CPU)
    found = task.pictures(nn.Identity())
    assert found is not None
    assert found["inputs"] == found["reconstructions"]
    shown = np.array(found["inputs"])
    assert shown.shape == (8, 8, 8, 1)
    np.testing.assert_allclose(shown[..., 0] / 255, data.test.features[:8, 0], atol=0.5 / 255)
    colours = Examples(np.zeros((2, 3, 4, 5), np.float32), np.zeros(2, np.int64))
    task = Task.of(Reconstruction(), Dataset(colours, colours, ("a",)), CPU)
    assert np.array(task.pictures(nn.Identity())["inputs"]).shape == (2, 4, 5, 3)
    assert Task.of(Reconstruction(), Made().load(0), CPU).pictures(nn.Identity()) is None


def test_pictures_of_values_beyond_the_range_are_cut_and_of_logits_are_probabilities():
    outputs = torch.tensor([-9.0, 0.5, 9.0, math.nan]).reshape(1, 1, 2, 2)
    inputs = torch.zeros(1, 1, 2, 2)
    assert np.ravel(Reconstruction().pictures(inputs, outputs)["reconstructions"]).tolist() == [0, 128, 255, 0]
    logits = Reconstruction(loss="bce").pictures(inputs, inputs)["reconstructions"]
    assert np.ravel(logits).tolist() == [128] * 4


def test_a_run_leaves_its_pictures_and_says_that_it_shows_test_records(tmp_path):
    text = SMALL.replace('name = "mlp"\nhidden = [8]', 'name = "autoencoder"\nchannels = [4]\nbottleneck = 8')
    scenario = parse_scenario(text + '[task]\nkind = "reconstruction"\n', "x", ["rounds=1"])
    result = fedsim.run(scenario, tmp_path / "run")
    pictures = json.loads((tmp_path / "run" / "pictures.json").read_text())
    assert np.array(pictures["reconstructions"]).shape == (8, 8, 8, 1)
    assert any("shows some of these test records" in line for line in result.summary["outside"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Test images and their reconstructions" in page
    assert "dB" in page


def test_vectors_are_reconstructed_by_an_mlp_on_its_fast_kernels(tmp_path):
    scenario = replace(
        parse_scenario(SMALL, "x", ["rounds=1", "population.partition={kind='iid'}"]),
        data=Made(),
        task=Reconstruction(),
        model=Mlp(hidden=(3,)),
    )
    result = fedsim.run(scenario, tmp_path / "run")
    assert "a chain of known layers" in result.summary["trainer_reason"]
    assert not (tmp_path / "run" / "pictures.json").exists()


def test_psnr_of_a_range_whose_square_overflows():
    measured = np.array([[1e300, 1e300]])
    wide = Reconstruction(lowest=-1e200, highest=1e200).metrics(measured, measured)
    assert wide["psnr"] == pytest.approx(20 * math.log10(2e200) - 3000)
