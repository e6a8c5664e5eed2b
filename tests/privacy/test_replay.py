"""Neighbour replay passes models whose records do not meet, and names what is wrong with the others."""

from __future__ import annotations

import copy
import random
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedsim.algorithms import FedAvg
from fedsim.errors import BadInput
from fedsim.models import MODELS, build_model
from fedsim.models.cnn import Convolution
from fedsim.models.replace import replace_layers
from fedsim.params import vector_of
from fedsim.privacy.gate import check_model
from fedsim.privacy.replay import neighbour_replay
from fedsim.training import TRAINERS
from fedsim.training.native import obstacle
from tests.samples import tasks_of

COUPLED = "the gradient of one record changes when another record of the batch is removed"
MISATTRIBUTED = "the gradients that OpacusTrainer computes are not those of one record each"


class Layered(nn.Module):
    """One hidden layer on the digits, with something of a test's own in the middle."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(64, 8), middle, nn.Linear(8, 10)

    def forward(self, x):
        return self.last(self.middle(torch.tanh(self.first(x.flatten(1)))))


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.forward = function


class Memory(nn.Module):
    """Keeps the activations of every batch, where ``how`` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.seen, self.box = how, [], {"values": np.zeros(8)}
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        if self.training and self.how == "list":
            self.seen.append(x.detach().sum())
        elif self.training and self.how == "array":
            self.box["values"] += x.detach().sum(0).numpy()
        elif self.training and self.how == "buffer":
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x


class OwnGenerator(nn.Module):
    """Draws for a whole batch at once from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(0)

    def forward(self, x):
        return x * torch.from_numpy(self.rng.random(tuple(x.shape))).to(x.dtype)


class BehindZeros(nn.Module):
    """Couples records through two parameters that start at 0, so that nothing shows at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x + self.a * self.b * x.mean(0)


class Reordered(nn.Module):
    """Turns the batch round for one layer and back, which cancels out for everybody but Opacus."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x.flip(0)).flip(0)


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


def trainer_of(module, task, trainer="vectorised"):
    """The trainer; making it runs the model once, so the global generators are put back."""
    replace_layers(module, "own")
    state = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        gradients = TRAINERS[trainer](module, task)
    np.random.set_state(state)  # noqa: NPY002
    return gradients


def replay(made, module, trainer="vectorised", clip_norm=0.7, seed=0):
    gradients, before = trainer_of(module, made.task, trainer), random.getstate()
    try:
        neighbour_replay(gradients, vector_of(module), clip_norm, np.random.default_rng(seed))
    finally:
        assert random.getstate() == before  # torch's and NumPy's are watched by a fixture


@pytest.fixture
def made(federation):
    return federation()


# The native trainer takes only chains of layers that it knows, none of which couples records.
REPLAYED = [name for name in TRAINERS if name != "native"]


def refused_by_native(made, *modules):
    return all(obstacle(module, made.task, made.scenario.algorithm, False) for module in modules)


SMALLER = {
    "cnn": {"convolutions": (Convolution(3),)},
    "resnet": {"widths": (4, 6)},
    "autoencoder": {"channels": (3, 4)},
}


def settings_of(name):
    """A small model, with dropout if it has it."""
    options = SMALLER.get(name, {}) | {"dropout": 0.3}
    known = {field.name for field in fields(MODELS[name])}
    return MODELS[name](**{key: value for key, value in options.items() if key in known})


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("clip_norm", [1e-3, 0.7, 1e6])
def test_the_models_of_the_table_pass_and_are_left_as_they_were(name, trainer, clip_norm):
    for task in tasks_of(settings_of(name)).values():
        module = build_model(settings_of(name), task.signature, 0)
        if trainer == "native" and obstacle(module, task, FedAvg(), False):
            continue
        start, keys = vector_of(module), module.state_dict().keys()
        gradients = trainer_of(module, task, trainer)
        neighbour_replay(gradients, start, clip_norm, np.random.default_rng(1))
        assert torch.equal(vector_of(module), start)
        assert module.state_dict().keys() == keys
        assert all(layer.mask is None for layer in gradients.dropout_layers)
        assert all(p.grad is None and not hasattr(p, "grad_sample") for p in module.parameters())


@pytest.mark.parametrize("trainer", TRAINERS)
def test_normalisation_within_a_record_passes_at_every_draw(made, trainer):
    def build():
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(144, 10)
        )

    if trainer == "native" and refused_by_native(made, seeded(build)):
        pytest.skip("nothing native on this machine")
    for seed in range(5):
        replay(made, seeded(build), trainer, seed=seed)


def test_a_model_that_only_runs_in_single_precision_passes(made):
    constant = torch.eye(8)
    replay(made, seeded(lambda: Layered(Function(lambda x: x @ constant))))


MEETING = {
    "batch mean": (lambda: Function(lambda x: x - x.mean(0)), COUPLED),
    "batch norm without gradient": (lambda: Function(lambda x: x / (1 + x.detach().norm())), COUPLED),
    "roll": (lambda: Function(lambda x: torch.roll(x, 1, 0)), COUPLED),
    "a little roll": (lambda: Function(lambda x: x + 0.01 * torch.roll(x, 1, 0)), COUPLED),
    "batch size": (lambda: Function(lambda x: x * len(x)), COUPLED),
    "behind zeros": (BehindZeros, COUPLED),
    "dropout": (lambda: Function(lambda x: functional.dropout(x, 0.5)), "draws from torch's global random generator"),
    "NumPy": (lambda: Function(lambda x: x * np.random.rand()), "draws from NumPy's global random generator"),  # noqa: NPY002
    "Python": (lambda: Function(lambda x: x * random.random()), "draws from Python's global random generator"),
    "own generator": (OwnGenerator, r"'middle' \(OwnGenerator\) changes the attribute 'rng'"),
    "list": (lambda: Memory("list"), r"'middle' \(Memory\) changes the attribute 'seen'"),
    "array": (lambda: Memory("array"), r"'middle' \(Memory\) changes the attribute 'box'"),
    "buffer": (lambda: Memory("buffer"), r"'middle' \(Memory\) changes the buffer 'mean'"),
    "fixed batch": (lambda: Function(lambda x: x if len(x) == 1 else x.view(1, 8)), "cannot train on a batch of 6"),
    "NaN": (lambda: Function(lambda x: x / 0.0), "NaN or infinite"),
}


@pytest.mark.parametrize("trainer", REPLAYED)
@pytest.mark.parametrize(("middle", "message"), MEETING.values(), ids=MEETING)
def test_records_that_meet_are_found(made, trainer, middle, message):
    module = seeded(lambda: Layered(nn.Identity()))
    module.middle = seeded(middle)
    with pytest.raises(BadInput, match=message) as raised:
        replay(made, module, trainer)
    assert "[privacy.example]" in str(raised.value)
    assert "GroupNorm" in str(raised.value)
    chain = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), middle(), nn.Linear(8, 10)))
    assert refused_by_native(made, module, chain)


@pytest.mark.parametrize("trainer", REPLAYED)
def test_batch_normalisation_is_found_without_the_gate(made, trainer):
    def build(**options):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, **options), nn.Flatten(), nn.Linear(144, 10))

    assert refused_by_native(made, seeded(build), seeded(lambda: build(track_running_stats=False)))
    with pytest.raises(BadInput, match=COUPLED):
        replay(made, seeded(lambda: build(track_running_stats=False)), trainer)
    with pytest.raises(BadInput, match="changes the buffer 'num_batches_tracked'"):
        replay(made, seeded(build), trainer)
    with pytest.raises(BadInput, match=r"cannot train on a batch of 1 .*Expected more than 1 value per channel"):
        replay(made, seeded(lambda: Layered(nn.BatchNorm1d(8))), trainer)


def test_the_static_gate_sees_none_of_this():
    check_model(seeded(lambda: Layered(Function(lambda x: x - x.mean(0)))), example_privacy=True)


def test_what_only_opacus_gets_wrong_is_refused_for_opacus(made):
    module = seeded(lambda: Layered(Reordered()))
    replay(made, copy.deepcopy(module), "vectorised")
    for clip_norm in (0.01, 1e6):
        with pytest.raises(BadInput, match=MISATTRIBUTED):
            replay(made, copy.deepcopy(module), "opacus", clip_norm)


def test_a_trainer_that_clips_the_batch_as_a_whole_is_found(made, monkeypatch):
    def careless(self, weights, batch, clip_norm, per_layer=False):
        total = self.plain(weights, batch) * len(batch.labels[0])
        return total / total.norm() * clip_norm, torch.zeros(len(weights))

    monkeypatch.setattr(TRAINERS["vectorised"], "clipped", careless)
    with pytest.raises(BadInput, match="VectorisedTrainer computes are not"):
        replay(made, seeded(lambda: Layered(nn.Identity())))


def test_data_of_fewer_records_than_a_replay_takes(made):
    task = copy.copy(made.task)
    object.__setattr__(task, "features", made.task.features[:2])
    object.__setattr__(task, "labels", made.task.labels[:2])
    module = seeded(lambda: Layered(nn.Identity()))
    neighbour_replay(trainer_of(module, task), vector_of(module), 0.7, np.random.default_rng(0))
