"""Classification's scores against scikit-learn and the slow obvious way, with empty classes and ties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from fedsim.tasks import Classification
from fedsim.tasks.scores import auroc, calibration_error, class_scores
from tests.tasks.made import Made

CASES = {
    "ordinary": ([0, 1, 2, 2, 1, 0, 2, 1], [0, 2, 2, 2, 1, 0, 1, 1], 3),
    "a class without records": ([0, 0, 1, 1], [0, 2, 1, 1], 3),
    "a class never predicted": ([0, 1, 2, 2], [0, 1, 1, 0], 3),
    "a class that does not occur": ([0, 1, 0, 1], [0, 1, 1, 1], 4),
    "one class": ([1, 1], [1, 1], 2),
    "nothing right": ([0, 1], [1, 0], 2),
}


def judged(outputs, labels):
    """The assessment of outputs ``[n, classes]``."""
    outputs, labels = np.asarray(outputs, np.float32), np.asarray(labels, np.int64)
    measured = Classification().measure(torch.from_numpy(outputs), torch.from_numpy(labels)).double().numpy()
    names = tuple(f"class {number}" for number in range(outputs.shape[1]))
    return Classification().assess(measured, labels, names)


@pytest.mark.parametrize("case", CASES)
def test_scores_by_class_are_scikit_learns(case):
    labels, predicted, classes = CASES[case]
    found = class_scores(np.array(predicted), np.array(labels), classes)
    expected = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(classes), average=None, zero_division=np.nan
    )
    for name, values in zip(("precision", "recall", "f1", "records"), expected, strict=True):
        np.testing.assert_allclose(found[name], values, equal_nan=True)
    judgement = judged(np.eye(classes)[predicted], labels)
    assert judgement.metrics["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert judgement.metrics["accuracy"] == sk.accuracy_score(labels, predicted)
    assert [row["class"] for row in judgement.tables["per_class"]] == [f"class {n}" for n in range(classes)]
    assert [row["records"] for row in judgement.tables["per_class"]] == np.bincount(labels, minlength=classes).tolist()


@pytest.mark.parametrize("levels", [2, 7, 10**6], ids=["many ties", "some ties", "hardly any"])
def test_auroc_is_scikit_learns(levels):
    rng = np.random.default_rng(levels)
    scores, labels = rng.integers(0, levels, 300) / levels, rng.integers(0, 2, 300)
    assert auroc(scores, labels == 1) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_needs_both_kinds_and_numbers():
    assert math.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True])))
    assert math.isnan(auroc(np.array([0.1, 0.2]), np.array([False, False])))
    assert math.isnan(auroc(np.array([0.1, math.nan]), np.array([True, False])))


def test_auroc_is_for_two_classes_and_sees_what_probabilities_round_away():
    rng = np.random.default_rng(0)
    outputs, labels = rng.normal(size=(50, 2)).astype(np.float32), rng.integers(0, 2, 50)
    chances = torch.softmax(torch.from_numpy(outputs).double(), 1)[:, 1].numpy()
    assert judged(outputs, labels).metrics["auroc"] == pytest.approx(sk.roc_auc_score(labels, chances))
    sure = np.array([[0, 200], [0, 300], [0, 250]])  # all probabilities are 1 in single precision
    assert judged(sure, [0, 1, 1]).metrics["auroc"] == 1
    assert "auroc" not in judged(rng.normal(size=(9, 3)), rng.integers(0, 3, 9)).metrics


def slow_calibration_error(confidence, right):
    """Guo et al. 2017, equation 3: 15 bins that hold their upper edges."""
    total = 0.0
    for number in range(15):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if number / 15 < c <= (number + 1) / 15]
        if inside:
            confident, correct = (sum(column) / len(inside) for column in zip(*inside, strict=True))
            total += len(inside) / len(confidence) * abs(correct - confident)
    return total


def test_the_calibration_error_is_that_of_the_slow_way():
    rng = np.random.default_rng(3)
    confidence = np.concatenate([rng.uniform(0.01, 1, 500), np.full(20, 1.0), np.full(20, 0.5)])
    right = rng.uniform(size=540) < confidence**2
    assert calibration_error(confidence, right) == pytest.approx(slow_calibration_error(confidence, right), abs=1e-12)
    assert calibration_error(confidence, right) > 0.1


def test_calibration_in_closed_form():
    """Four classes, all as likely: confidence 1/4; the first is predicted and right once in five."""
    judgement = judged(np.zeros((5, 4)), [0, 1, 2, 3, 3])
    assert judgement.metrics["expected_calibration_error"] == pytest.approx(0.05, abs=1e-6)
    assert judgement.metrics["accuracy"] == 0.2
    assert judgement.metrics["loss"] == pytest.approx(math.log(4), rel=1e-6)


def test_outputs_that_are_not_numbers_give_undefined_scores_not_an_error():
    found = judged([[math.nan, 0.0], [0.0, 1.0]], [0, 1]).metrics
    assert math.isnan(found["auroc"])
    assert math.isnan(found["expected_calibration_error"])


def test_the_labels_are_those_of_the_test_records():
    data = Made().load(0)
    objective = Classification()
    assert np.array_equal(objective.labels(data.test), data.test.labels)
    assert objective.outputs(data) == (2,)
