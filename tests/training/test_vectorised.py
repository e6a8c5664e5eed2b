"""The vectorised trainer's whole training against the reference, and which models are chains."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedsim.algorithms import FedAvg, FedProx, LocalTraining
from fedsim.models.layers import Dropout
from fedsim.training import OpacusTrainer, VectorisedTrainer, chain, vectorised
from fedsim.training.program import NotAChain, program_of
from tests.conftest import local_problem, unclipped
from tests.training.chains import CLASSES, built, make_task, make_work, seeded, start_of


@pytest.fixture(params=[500_000, -1], ids=["unfolded", "direct"])
def _convolutions(request, monkeypatch):
    """Both kernels for convolutions."""
    monkeypatch.setattr(chain, "DIRECT", request.param)


SHAPE = (2, 8, 8)
MODELS = {
    "mlp": [nn.Flatten, lambda: nn.Linear(128, 9), nn.ReLU, lambda: Dropout(0.4), lambda: nn.Linear(9, CLASSES)],
    "cnn": [
        lambda: nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU,
        lambda: nn.MaxPool2d(2),
        lambda: nn.Conv2d(4, 6, 3, stride=2),
        lambda: nn.GroupNorm(2, 6),
        nn.Tanh,
        lambda: nn.MaxPool2d(1, 1),
        lambda: Dropout(0.3),
        nn.Flatten,
        lambda: nn.Linear(6, CLASSES),
    ],
}
UNEVEN = [[4, 4, 3], [4, 2], [4, 1], [1]]
POISSON = [[3, 0, 5], [0, 0, 2], [6, 1], [0, 0]]


def trainers(model, task=None):
    module = built(*MODELS[model])
    task = task or make_task(SHAPE)
    return VectorisedTrainer(copy.deepcopy(module), task), OpacusTrainer(copy.deepcopy(module), task), start_of(module)


def agree(fast, slow, **tolerance):
    torch.testing.assert_close(fast.updates, slow.updates, **{"rtol": 1e-3, "atol": 2e-6, **tolerance})
    assert fast.spent == slow.spent
    assert unclipped(fast) == pytest.approx(unclipped(slow))
    assert slow.updates.abs().max() > 1e-3


ALGORITHMS = {
    "sgd": FedAvg(local=LocalTraining(learning_rate=0.2)),
    "proximal": FedProx(mu=0.5, local=LocalTraining(learning_rate=0.2)),
    "momentum": FedProx(mu=0.5, local=LocalTraining(learning_rate=0.1, options={"momentum": 0.9, "nesterov": True})),
    "decay": FedAvg(local=LocalTraining(learning_rate=0.1, options={"weight_decay": 0.1})),
    "adam": FedAvg(local=LocalTraining(learning_rate=0.01, optimizer="adam")),
}


@pytest.mark.usefixtures("_convolutions")
@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("model", MODELS)
def test_training_agrees_with_the_reference(model, algorithm, private):
    work = make_work(POISSON, 1.0, count_noise=2.0) if private else make_work(UNEVEN)
    fast, slow, start = trainers(model)
    # Adam divides by a gradient's size, so one rounding of a tiny gradient shows larger there.
    tolerance = {"atol": 2e-4} if algorithm == "adam" else {}
    results = [trainer.train(*local_problem(ALGORITHMS[algorithm], start), work) for trainer in (fast, slow)]
    agree(*results, **tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_clipping_per_layer_agrees_with_the_reference(model):
    fast, slow, start = trainers(model)
    work = make_work(POISSON, 1e-6, per_layer=True)
    agree(*(trainer.train(*local_problem(ALGORITHMS["sgd"], start), work) for trainer in (fast, slow)))


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_an_example_that_is_not_finite_counts_as_zero(model, per_layer, value):
    task = make_task(SHAPE)
    work = make_work(POISSON, 1e-6, per_layer=per_layer)
    fast, slow, start = trainers(model, task)
    clean = fast.train(*local_problem(ALGORITHMS["sgd"], start), work).updates
    task.features[work.batch(0, 0)[1]] = value
    results = [trainer.train(*local_problem(ALGORITHMS["sgd"], start), work) for trainer in (fast, slow)]
    agree(*results)
    assert not torch.equal(results[0].updates[0], clean[0])
    torch.testing.assert_close(results[0].updates[1:], clean[1:])


@pytest.mark.parametrize("model", MODELS)
def test_one_clients_nan_does_not_touch_another(model):
    """Also where it would stand in a padded place of the other's batch: record 0, or the next client's first."""
    task = make_task(SHAPE)
    work = make_work(UNEVEN)
    fast, _, start = trainers(model, task)
    clean = fast.train(*local_problem(ALGORITHMS["sgd"], start), work).updates
    step = fast.train(*local_problem(ALGORITHMS["momentum"], start), work).updates
    poisoned = int(work.batch(2, 0)[0])
    task.features[[0, poisoned]] = task.features[[poisoned, 0]]
    work.records[:] = np.where(work.records == 0, poisoned, np.where(work.records == poisoned, 0, work.records))
    task.features[0] = float("nan")
    for algorithm, expected in (("sgd", clean), ("momentum", step)):
        updates = fast.train(*local_problem(ALGORITHMS[algorithm], start), work).updates
        assert not torch.isfinite(updates[2]).all()
        torch.testing.assert_close(updates[[0, 1, 3]], expected[[0, 1, 3]])


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("algorithm", ["sgd", "momentum"])
def test_chunks_slices_and_threads_change_nothing(algorithm, private, monkeypatch):
    work = make_work(POISSON, 1.0) if private else make_work(UNEVEN)
    fast, _, start = trainers("cnn")
    whole = fast.train(*local_problem(ALGORITHMS[algorithm], start), work)
    monkeypatch.setattr(vectorised, "CPU_CHUNK_BYTES", 1)
    monkeypatch.setattr(vectorised, "SLICE_BYTES", 1)
    assert fast.chunk_length(4, private) == 1
    agree(fast.train(*local_problem(ALGORITHMS[algorithm], start), work), whole)
    with ThreadPoolExecutor(2) as pool:
        parts = [work.rows(row, row + 1) for row in range(4)] * 4
        results = list(
            pool.map(lambda part: fast.train(*local_problem(ALGORITHMS[algorithm], start), part).updates, parts)
        )
    for number, updates in enumerate(results):
        assert torch.equal(updates, results[number % 4])
        torch.testing.assert_close(updates[0], whole.updates[number % 4], rtol=1e-4, atol=1e-6)


def test_small_models_train_in_one_block_and_large_ones_in_small_blocks():
    def trainer(width):
        module = built(lambda: nn.Linear(64, width), lambda: nn.Linear(width, CLASSES))
        return VectorisedTrainer(module, make_task((64,)))

    small, large = trainer(32), trainer(30_000)
    assert small.block_length(100, 2, 10, private=False) == 100
    assert large.block_length(100, 2, 10, private=False) == 4
    assert large.block_length(2, 2, 10, private=False) == 1
    assert large.bytes_per_client(10, private=True) >= 4 * large.layout.size


class Written(nn.Module):
    """A chain written as a class, its layers declared in another order than they are used."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, CLASSES)
        self.late, self.early = Dropout(0.5), Dropout(0.2)
        self.second = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU())
        self.first = nn.Conv2d(2, 4, 3)

    def forward(self, x):
        x = functional.max_pool2d(torch.tanh(self.first(x)), 2, stride=1)
        x = self.early(self.second(x))
        x = functional.relu(functional.max_pool2d(x, kernel_size=(2, 2), stride=1).view(x.size(0), -1))
        return self.head(self.late(x.reshape(-1, 12)))


def test_a_class_that_is_a_chain_trains_as_one():
    with torch.random.fork_rng(devices=[]):
        module = seeded(Written())
    task = make_task((2, 8, 8))
    fast, slow = VectorisedTrainer(copy.deepcopy(module), task), OpacusTrainer(copy.deepcopy(module), task)
    assert fast.chain is not None
    for work in (make_work(UNEVEN), make_work(POISSON, 1.0)):
        agree(*(trainer.train(*local_problem(ALGORITHMS["sgd"], start_of(module)), work) for trainer in (fast, slow)))


class Residual(nn.Module):
    def __init__(self, twice=False, second=False):
        super().__init__()
        self.layer, self.norm = nn.Linear(7, 7), nn.LayerNorm(7)
        self.twice, self.second = twice, second

    def forward(self, x):
        if self.second:
            return self.layer(x)
        return self.layer(self.layer(x)) if self.twice else self.norm(x + self.layer(x))


def tied():
    first, second = nn.Linear(7, 7), nn.Linear(7, 7)
    second.weight = first.weight
    return nn.Sequential(first, second)


def hooked():
    module = nn.Sequential(nn.Linear(7, 7))
    module[0].register_forward_pre_hook(lambda layer, inputs: None)
    return module


@pytest.mark.parametrize(
    ("make", "obstacle"),
    [
        (Residual, "alone"),
        (lambda: Residual(twice=True), "twice"),
        (lambda: Residual(second=True), "all of its parameters"),
        (tied, "share a parameter"),
        (hooked, "hooks"),
        (lambda: nn.Sequential(nn.Linear(7, 5), nn.Softmax(1)), "Softmax"),
        (lambda: nn.Sequential(nn.Linear(7, 5)).requires_grad_(False), "frozen"),
    ],
)
def test_what_is_no_chain_is_said(make, obstacle):
    with torch.random.fork_rng(devices=[]):
        module = make()
    with pytest.raises(NotAChain, match=obstacle):
        program_of(module, (7,))


def test_a_model_that_is_no_chain_agrees_with_the_reference_too():
    with torch.random.fork_rng(devices=[]):
        module = nn.Sequential(seeded(Residual()), nn.Linear(7, CLASSES))
    task = make_task((7,))
    fast, slow = VectorisedTrainer(copy.deepcopy(module), task), OpacusTrainer(copy.deepcopy(module), task)
    assert fast.chain is None
    assert fast.parallel_blocks == 1
    start = start_of(module)
    for work in (make_work(UNEVEN), make_work(POISSON, 1.0)):
        agree(*(trainer.train(*local_problem(ALGORITHMS["momentum"], start), work) for trainer in (fast, slow)))
