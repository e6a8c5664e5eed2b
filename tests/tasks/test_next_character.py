"""Next-character prediction against the slow way: character by character, with padding and empty pieces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fedsim.tasks import NextCharacter, Task
from fedsim.tasks import task as task_module
from tests.tasks.made import LENGTH, Made, TinyText, texts

OBJECTIVE = NextCharacter()


@pytest.fixture
def outputs():
    return torch.randn(12, LENGTH, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.from_numpy(texts(np.random.default_rng(1), 12).labels)


def characters(outputs, labels):
    """For every piece, the cross-entropy of each of its characters and whether it was right."""
    found = []
    for piece, own in zip(outputs.tolist(), labels.tolist(), strict=True):
        places = [(row, label) for row, label in zip(piece, own, strict=True) if label != -1]
        chances = [(np.exp(row) / np.exp(row).sum(), label) for row, label in places]
        found.append([(-math.log(chance[label]), int(chance.argmax()) == label) for chance, label in chances])
    return found


def test_the_loss_is_the_mean_over_a_pieces_own_characters(outputs, labels):
    expected = [np.mean([loss for loss, _ in piece]) if piece else 0.0 for piece in characters(outputs, labels)]
    np.testing.assert_allclose(OBJECTIVE.losses(outputs, labels), expected, rtol=1e-10)
    assert expected[0] == 0
    assert len({len(piece) for piece in characters(outputs, labels)}) > 3


def test_accuracy_and_perplexity_count_characters_not_pieces(outputs, labels):
    pieces = characters(outputs, labels)
    every = [character for piece in pieces for character in piece]
    found = OBJECTIVE.metrics(OBJECTIVE.measure(outputs, labels).numpy(), labels.numpy())
    assert found["accuracy"] == pytest.approx(np.mean([right for _, right in every]))
    assert found["perplexity"] == pytest.approx(math.exp(np.mean([loss for loss, _ in every])))
    assert found["loss"] == pytest.approx(np.mean([np.mean([x for x, _ in p]) if p else 0 for p in pieces]))
    assert tuple(found) == NextCharacter.metric_names


def test_the_gradient_is_autograds_and_padding_has_none(outputs, labels):
    variable = outputs.clone().requires_grad_()
    expected = torch.autograd.grad(OBJECTIVE.losses(variable, labels).sum(), variable)[0]
    found = OBJECTIVE.gradient(outputs, labels)
    torch.testing.assert_close(found, expected)
    assert (found[labels == -1] == 0).all()
    assert (found[0] == 0).all()


def test_a_text_without_any_character_has_no_accuracy_and_a_hopeless_model_an_infinite_perplexity():
    nothing = torch.full((2, 3), -1)
    found = OBJECTIVE.metrics(OBJECTIVE.measure(torch.zeros(2, 3, 4), nothing).double().numpy(), nothing.numpy())
    assert found["loss"] == 0
    assert math.isnan(found["accuracy"])
    assert math.isnan(found["perplexity"])
    wrong = torch.tensor([[[0.0, 1e5]]]), torch.tensor([[0]])
    found = OBJECTIVE.metrics(OBJECTIVE.measure(*wrong).double().numpy(), wrong[1].numpy())
    assert found["perplexity"] == math.inf
    assert found["accuracy"] == 0


def test_evaluation_goes_in_batches_that_bound_the_memory(monkeypatch):
    data = Made(kind="tokens").load(0)
    task = Task.of(OBJECTIVE, data, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = TinyText()
    whole, lengths = task.evaluate(module), []
    module.register_forward_pre_hook(lambda _, inputs: lengths.append(len(inputs[0])))
    monkeypatch.setattr(task_module, "EVALUATION_VALUES", 4 * LENGTH * 5 + 3)
    assert task.evaluate(module) == pytest.approx(whole)
    assert max(lengths) == 4
    assert sum(lengths) == len(data.test)
