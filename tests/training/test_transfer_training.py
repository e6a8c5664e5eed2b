"""Frozen layers and low-rank updates in every trainer, and frozen first layers applied once."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.models.layers import Dropout
from fedsim.native.build import NoNative, library
from fedsim.params import vector_of
from fedsim.seeding import Stream
from fedsim.server import evaluate
from fedsim.training import TRAINERS
from fedsim.training.prefix import without_prefix
from tests.conftest import EXAMPLE_PRIVACY, SMALL, batches_of, local_problem, trainer_of, why_not, work_of
from tests.training.chains import built, make_task

PRIVATE = SMALL + EXAMPLE_PRIVACY
MODELS = {
    "frozen first layers": 'model={name="cnn", convolutions=[{channels=3}], hidden=[6], freeze=["features.*"]}',
    "frozen first layers and dropout": 'model={name="cnn", convolutions=[{channels=3}], hidden=[6], dropout=0.3, '
    'freeze=["features.*"]}',
    "frozen last layer": 'model={name="mlp", hidden=[8], freeze=["4.*"]}',
    "low-rank updates": 'model={name="mlp", hidden=[8], lora={rank=2, alpha=4.0, targets=["*"]}}',
    "both": 'model={name="mlp", hidden=[8, 6], dropout=0.2, freeze=["1.*"], lora={rank=1, targets=["4", "7"]}}',
}
EVERYTHING = 1e12


def train(made, trainer):
    work = work_of(made)
    trained = trainer.train(*local_problem(made.scenario.algorithm, made.start), work)
    order = np.argsort(work.clients)
    return trained.updates[order].clone(), trained


def cached_trainer(made, name):
    """The trainer of what is left without the frozen first layers, if there are any."""
    module, task = without_prefix(copy.deepcopy(made.module), made.task, EVERYTHING)
    return TRAINERS[name](module, task)


def oracle(made, client, private):
    """One example at a time by plain autograd, with all the noise's own draws; only what trains is stepped."""
    module, work = copy.deepcopy(made.module).train(), work_of(made)
    trained = [p for p in module.parameters() if p.requires_grad]
    start, rate = vector_of(module), made.scenario.algorithm.local.learning_rate
    for step, batch in enumerate(batches_of(work, client)):
        rows = []
        for record in batch:
            outputs = module(made.task.features[[record]])
            loss = nn.functional.cross_entropy(outputs, made.task.labels[[record]])
            row = torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained)])
            rows.append(row * min(1.0, 0.7 / float(row.norm())) if private else row)
        total = torch.stack(rows).sum(0) if rows else torch.zeros_like(start)
        if private:
            noise = work.keystream.normals(Stream.NOISE, torch.tensor([client]), step, len(start))[0].float()
            total = total + 1.1 * 0.7 * noise
        gradient = total / (64 if private else len(batch))
        with torch.no_grad():
            for p, part in zip(trained, gradient.split([p.numel() for p in trained]), strict=True):
                p.sub_(rate * part.view_as(p))
    return vector_of(module) - start


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("model", ["frozen first layers", "frozen last layer", "low-rank updates"])
@pytest.mark.parametrize("trainer", ["opacus", "vectorised"])
def test_only_what_trains_moves_as_in_the_textbook_loop(federation, trainer, model, private):
    made = federation(MODELS[model], text=PRIVATE if private else SMALL)
    updates, _ = train(made, trainer_of(made, trainer))
    for client in range(3):
        torch.testing.assert_close(updates[client], oracle(made, client, private), rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("text", [SMALL, PRIVATE], ids=["plain", "private"])
@pytest.mark.parametrize("model", MODELS)
def test_trainers_agree_with_and_without_the_frozen_first_layers(federation, model, text):
    made = federation(MODELS[model], text=text)
    slow, slow_trained = train(made, trainer_of(made, "opacus"))
    assert slow.abs().max() > 1e-3
    for name in TRAINERS:
        if name != "native":
            fast, fast_trained = train(made, cached_trainer(made, name))
            torch.testing.assert_close(fast, slow, rtol=1e-3, atol=2e-5)
            assert fast_trained.spent == slow_trained.spent
    picked, _ = train(made, made.trainer)
    torch.testing.assert_close(picked, slow, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("model", ["frozen first layers", "frozen first layers and dropout"])
def test_what_is_left_trains_natively_and_is_evaluated_as_the_whole(federation, model):
    made = federation(MODELS[model])
    whole = made.task.evaluate(made.module)
    assert why_not(made, "native") is not None
    assert evaluate(made, made.start) == pytest.approx(whole, rel=1e-5)
    assert not isinstance(made.trainer.module[0], nn.Conv2d)
    assert "applied to every example once" in made.trainer_reason
    try:
        library()
    except NoNative as reason:
        pytest.skip(str(reason))
    assert made.trainer_name == "native"


def frozen(module, *numbers):
    for number in numbers:
        module[number].requires_grad_(False)
    return module


def layers(*kinds):
    module = built(*kinds)
    return frozen(module, 0)


class Swapped(nn.Module):
    """What trains is defined in another order than it is used."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.last, self.middle, self.first = nn.Linear(4, 5), nn.Linear(6, 4), nn.Linear(7, 6)
        self.first.requires_grad_(False)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


def dense():
    return nn.Linear(7, 7)


def last():
    return nn.Linear(7, 5)


@pytest.mark.parametrize(
    ("make", "left"),
    [
        (lambda: layers(dense, nn.ReLU, last), 1),
        (lambda: frozen(layers(dense, dense, nn.Tanh, last), 1), 1),
        (lambda: layers(dense, lambda: Dropout(0.0), last), 1),
        (lambda: layers(dense, lambda: Dropout(0.5), last), 2),
        (lambda: layers(dense, lambda: nn.LeakyReLU(0.1), last), 2),
        (lambda: frozen(built(lambda: Dropout(0.5), dense, last), 1), None),
        (lambda: frozen(built(dense, dense, last), 1), None),
        (lambda: built(nn.ReLU, last), None),
        (Swapped, None),
    ],
)
def test_only_first_layers_that_never_change_their_minds_are_applied_once(make, left):
    module, task = make(), make_task((7,))
    rest, cached = without_prefix(module, task, EVERYTHING)
    if left is None:
        assert rest is module
        assert cached is task
        return
    assert len(rest) == left
    assert [p for p in rest.parameters() if p.requires_grad] == [p for p in module.parameters() if p.requires_grad]
    module.eval(), rest.eval()
    torch.testing.assert_close(rest(cached.features), module(task.features), rtol=1e-5, atol=1e-6)
    assert cached.evaluate(rest) == pytest.approx(task.evaluate(module), rel=1e-5)
    assert cached.labels is task.labels


def test_the_features_are_kept_only_where_they_fit():
    module, task = layers(dense, last), make_task((7,))
    needed = 4.0 * 7 * (len(task.data.train) + len(task.data.test))
    assert without_prefix(module, task, needed)[0] is not module
    assert without_prefix(module, task, needed - 1)[0] is module


def test_labels_that_may_be_made_of_the_features_stay_what_they_were():
    class Reconstruction(type(make_task((7,)).objective)):
        def labels(self, examples):
            return examples.features

    module, task = layers(dense, last), make_task((7,))
    task = replace(task, objective=Reconstruction())
    assert without_prefix(module, task, EVERYTHING) == (module, task)
