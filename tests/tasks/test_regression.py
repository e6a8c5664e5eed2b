"""Regression against scikit-learn, and the scores of what does not vary."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from fedsim.jsonable import jsonable
from fedsim.tasks import Regression


def judged(outputs, labels, loss="mse"):
    outputs, labels = np.asarray(outputs, np.float32), np.asarray(labels, np.float32)
    objective = Regression(loss=loss)
    measured = objective.measure(torch.from_numpy(outputs), torch.from_numpy(labels)).double().numpy()
    return objective.metrics(measured, labels)


@pytest.mark.parametrize("loss", ["mse", "mae"])
@pytest.mark.parametrize("numbers", [1, 3])
def test_the_metrics_are_scikit_learns(numbers, loss):
    rng = np.random.default_rng(numbers)
    labels = rng.normal(size=(200, numbers)) * [1, 5, 0.1][:numbers] + 3
    outputs = labels + rng.normal(size=labels.shape)
    found = judged(outputs, labels, loss)
    assert found["mse"] == pytest.approx(sk.mean_squared_error(labels, outputs), rel=1e-5)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(labels, outputs), rel=1e-5)
    assert found["r2"] == pytest.approx(sk.r2_score(labels, outputs), rel=1e-4)
    assert found["loss"] == pytest.approx(found[loss], rel=1e-6)


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_the_gradient_is_autograds(loss):
    rng = np.random.default_rng(0)
    outputs, labels = (torch.from_numpy(rng.normal(size=(5, 3))) for _ in range(2))
    variable = outputs.clone().requires_grad_()
    expected = torch.autograd.grad(Regression(loss=loss).losses(variable, labels).sum(), variable)[0]
    torch.testing.assert_close(Regression(loss=loss).gradient(outputs, labels), expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e8])
@pytest.mark.parametrize("right", [True, False])
def test_a_constant_has_no_r2(constant, right):
    """The mean of many 0.1 is not quite 0.1, so that rounding would give a variance, and an R2 of -10^30."""
    labels = np.full((1001, 1), constant)
    found = judged(labels if right else labels + 1 + constant, labels)
    assert math.isnan(found["r2"])
    assert json.loads(json.dumps(jsonable(found)))["r2"] is None
    assert (found["mse"] == 0) is right


def test_one_test_record_has_no_r2():
    assert math.isnan(judged([[1.0]], [[2.0]])["r2"])
