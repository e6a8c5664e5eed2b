"""The native trainer against the reference trainer on random chains of layers, and how it is compiled."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.algorithms import FedAvg, FedProx, LocalProblem, LocalTraining
from fedsim.data.dataset import Dataset, Examples
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.loading import parse_scenario
from fedsim.models.layers import Dropout
from fedsim.native import build
from fedsim.params import vector_of
from fedsim.privacy import clipping
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.mechanism import GaussianSums
from fedsim.seeding import Stream
from fedsim.tasks import Classification, Reconstruction, Regression, Task
from fedsim.training import NativeTrainer, OpacusTrainer, pick_trainer
from fedsim.training.work import Work
from tests.conftest import EXAMPLE_PRIVACY, SMALL, local_problem, unclipped
from tests.tasks.made import Made

CLASSES = 5
EVENTS = (Event(0.8, 0.3, "poisson"), Event(1.7, 0.2, "poisson"))
# Each a shape of the data and the layers up to the last; widths that are no whole vector, borders, overlaps, strides.
CHAINS = {
    "logistic": ((7,), []),
    "dense": ((13,), [nn.Linear(13, 21), nn.ReLU(), nn.Linear(21, 16, bias=False), nn.Tanh()]),
    "dense on images": ((3, 4, 5), [nn.Flatten(), nn.Linear(60, 33), nn.GELU(), Dropout(0.4)]),
    "dropped data": ((2, 3, 3), [Dropout(0.3), nn.Flatten(), nn.Linear(18, 9), nn.Sigmoid(), Dropout(0.5)]),
    "layer norm": ((9,), [nn.LayerNorm(9), nn.Linear(9, 20), nn.LayerNorm(20), nn.ReLU()]),
    "conv, relu, pool": ((3, 9, 8), [nn.Conv2d(3, 18, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]),
    "conv of odd sizes": (
        (2, 11, 9),
        [
            nn.Conv2d(2, 5, (3, 2), (2, 1), (2, 1)),
            nn.Tanh(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(5, 4, 2, bias=False),
            nn.Sigmoid(),
            nn.Flatten(),
            Dropout(0.2),
        ],
    ),
    "two convs and norms": (
        (1, 10, 10),
        [
            nn.Conv2d(1, 6, 3),
            nn.GroupNorm(3, 6),
            nn.ReLU(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(6, 17, 3, 2, 1),
            nn.ReLU(),
            nn.GroupNorm(1, 17, affine=False),
            nn.Flatten(),
            nn.Linear(17 * 16, 12),
            nn.GroupNorm(4, 12),
            nn.ReLU(),
        ],
    ),
    "layer norm of images": (
        (2, 6, 6),
        [nn.LayerNorm((2, 6, 6)), nn.Conv2d(2, 3, 3), nn.LayerNorm((3, 4, 4)), nn.Flatten()],
    ),
    "pool first": ((3, 6, 6), [nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, padding=1), nn.GELU(), nn.Flatten()]),
    "relu alone": ((11,), [nn.ReLU(), nn.Linear(11, 6), nn.Tanh(), nn.ReLU()]),
}
LOCAL = {
    "sgd": {},
    "momentum": {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "damped": {"momentum": 0.8, "dampening": 0.3},
}


def chain(name: str, seed: int = 0) -> tuple[nn.Module, Task]:
    """A chain, its weights drawn with a seed, and 60 random records."""
    shape, layers = CHAINS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = copy.deepcopy(nn.Sequential(*layers)).eval()
        module = nn.Sequential(*body, nn.Linear(body(torch.zeros(1, *shape)).shape[1], CLASSES))
        for p in module.parameters():
            nn.init.normal_(p, std=0.3)
    rng = np.random.default_rng(seed)
    part = Examples(rng.normal(size=(60, *shape)).astype(np.float32), rng.integers(0, CLASSES, 60))
    return module, Task.of(Classification(), Dataset(part, part, tuple("abcde")), torch.device("cpu"))


def regression(numbers: int, loss: str) -> tuple[nn.Module, Task]:
    """Two dense layers, and 60 random records with so many numbers each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(13, 10), nn.Tanh(), nn.Linear(10, numbers))
    rng = np.random.default_rng(0)
    features, labels = (rng.normal(size=(60, size)).astype(np.float32) for size in (13, numbers))
    part = Examples(features, labels)
    data = Dataset(part, part, tuple(map(str, range(numbers))), "numbers")
    return module, Task.of(Regression(loss=loss), data, torch.device("cpu"))


def work(private: bool, secure: bool = False, count_noise: float | None = None) -> Work:
    """Four uneven clients with batches of 0 to 23 records: more than go through the layers at once."""
    lengths = np.array([[23, 5, 16, 17], [1, 9, 3, -1], [17, 2, -1, -1], [4, 0 if private else 1, -1, -1]])
    rng, clients = np.random.default_rng(5), np.array([3, 0, 40_000, 2])
    keystream = Keystream(bytes(range(32)), 7, secure)
    records = rng.integers(0, 60, int(np.maximum(lengths, 0).sum()))
    kinds = np.array([0, 1, 1, 0])
    noise = GaussianSums(clients, EVENTS, kinds, 0.6, count_noise, keystream, Stream.NOISE) if private else None
    return Work(clients, records, lengths, keystream, 10, noise)


def both(module, task, algorithm, drawn):
    start = vector_of(module)
    fast = NativeTrainer(copy.deepcopy(module), task).train(*local_problem(algorithm, start), drawn)
    slow = OpacusTrainer(copy.deepcopy(module), task).train(*local_problem(algorithm, start), drawn)
    return fast, slow


def assert_same(fast, slow):
    assert float((fast.updates - slow.updates).norm()) < 2e-5 * float(slow.updates.norm())
    assert fast.spent == slow.spent
    assert unclipped(fast) == pytest.approx(unclipped(slow), abs=1e-4)


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("options", LOCAL)
@pytest.mark.parametrize("name", CHAINS)
def test_it_trains_as_the_reference_does(name, options, private):
    module, task = chain(name)
    local = LocalTraining(learning_rate=0.2, options=LOCAL[options])
    fast, slow = both(module, task, FedAvg(local=local), work(private))
    assert_same(fast, slow)
    assert float(slow.updates.abs().max()) > 1e-2


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
def test_the_pull_to_the_start(private):
    module, task = chain("dense")
    algorithm = FedProx(mu=0.7, local=LocalTraining(learning_rate=0.3))
    assert_same(*both(module, task, algorithm, work(private)))


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("options", LOCAL)
@pytest.mark.parametrize(
    ("starts", "pull", "anchored", "lines"),
    [("own", 0.0, False, 0), ("own", 0.6, False, 0), ("own", 0.6, True, 2), ("one", 0.6, True, 1), ("one", 0.0, 0, 2)],
)
@pytest.mark.parametrize("name", ["logistic", "two convs and norms"])
def test_starts_anchors_and_linear_terms(name, starts, pull, anchored, lines, options, private):
    """Of each client or of all; ``lines`` are the dimensions of the linear term. Clients are uneven."""
    module, task = chain(name)
    start, drawn = vector_of(module), work(private)
    rng = torch.Generator().manual_seed(3)

    def noise(*shape):
        return 0.2 * torch.randn(*shape, len(start), generator=rng)

    problem = LocalProblem(
        start + noise(4) if starts == "own" else start,
        pull,
        start + noise() if anchored else None,
        [None, noise(), noise(4)][lines],
    )
    local = LocalTraining(learning_rate=0.2, options=LOCAL[options])
    fast = NativeTrainer(copy.deepcopy(module), task).train(local, problem, drawn)
    slow = OpacusTrainer(copy.deepcopy(module), task).train(local, problem, drawn)
    assert_same(fast, slow)
    without = NativeTrainer(copy.deepcopy(module), task).train(local, LocalProblem(start), drawn)
    assert float((without.updates - slow.updates).norm()) > 1e-2 * float(slow.updates.norm())


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("options", ["sgd", "momentum"])
@pytest.mark.parametrize("numbers", [1, 5, 8, 19])
@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_numbers_are_learnt_as_by_the_reference(loss, numbers, options, private):
    module, task = regression(numbers, loss)
    local = LocalTraining(learning_rate=0.1, options=LOCAL[options])
    fast, slow = both(module, task, FedAvg(local=local), work(private))
    assert_same(fast, slow)
    assert float(slow.updates.abs().max()) > 1e-2


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_a_number_that_is_nan_is_as_in_the_reference(loss):
    module, task = regression(3, loss)
    labels = task.labels.clone()
    labels[::7, 1] = float("nan")
    fast, slow = both(module, replace(task, labels=labels), FedAvg(), work(True))
    assert torch.isfinite(fast.updates).all()
    assert_same(fast, slow)


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_a_number_that_is_right_has_no_gradient(loss):
    """Also by the absolute error, whose sign is then 0."""
    module, task = regression(2, loss)
    task = replace(task, labels=torch.zeros_like(task.labels))  # as a model of zeros says
    start = torch.zeros_like(vector_of(module))
    assert (NativeTrainer(module, task).train(*local_problem(FedAvg(), start), work(False)).updates == 0).all()
    task = replace(task, labels=torch.ones_like(task.labels))
    assert (NativeTrainer(module, task).train(*local_problem(FedAvg(), start), work(False)).updates != 0).any()


@pytest.mark.parametrize("secure", [False, True])
def test_counts_and_secure_noise(secure):
    module, task = chain("conv, relu, pool")
    fast, slow = both(module, task, FedAvg(), work(True, secure, count_noise=2.5))
    assert_same(fast, slow)
    assert unclipped(fast) != 0


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("dense", float("nan")),
        ("dense", 1e30),
        ("conv, relu, pool", float("inf")),
        ("conv, relu, pool", 1e30),
        ("two convs and norms", float("nan")),
        ("layer norm", float("inf")),
    ],
)
def test_a_bad_record_counts_as_nothing(name, bad):
    module, task = chain(name)
    features = task.features.clone()
    features[::7] = bad
    fast, slow = both(module, replace(task, features=features), FedAvg(), work(True))
    assert torch.isfinite(fast.updates).all()
    assert_same(fast, slow)


def test_without_privacy_a_bad_record_shows():
    module, task = chain("dense")
    features = torch.full_like(task.features, float("nan"))
    trained = NativeTrainer(module, replace(task, features=features)).train(
        *local_problem(FedAvg(), vector_of(module)), work(False)
    )
    assert (~torch.isfinite(trained.updates)).any(dim=1).all()


def test_bits_do_not_depend_on_threads():
    module, task = chain("two convs and norms")
    start = vector_of(module)
    results = [
        NativeTrainer(module, task, workers).train(*local_problem(FedAvg(), start), work(True)).updates
        for workers in (1, 3, 9)
    ]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("clip_norm", [0.5, float("inf")])
@pytest.mark.parametrize("size", [1, 37, 300_000])
def test_clipped_updates_add_up(clip_norm, size):
    module, task = chain("logistic")
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(size=(7, size)).astype(np.float32))
    rows[2, 0], rows[4, size // 2], rows[5] = float("nan"), float("-inf"), 0.0
    weights, before = torch.from_numpy(rng.uniform(size=7)), torch.from_numpy(rng.normal(size=size))
    expected, found = before.clone(), before.clone()
    norms = clipping.add_clipped(expected, rows, clip_norm, weights)
    trainer = NativeTrainer(module, task, workers=3)
    torch.testing.assert_close(trainer.add_clipped(found, rows, clip_norm, weights), norms, equal_nan=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("secure", [False, True])
def test_words_are_those_of_the_key_stream(secure):
    module, task = chain("logistic")
    keystream = Keystream(bytes(range(32)), 3, secure)
    clients, counts = np.array([0, 5, 2**31 + 3]), np.array([1, 0, 1000])
    words = NativeTrainer(module, task).words(keystream, Stream.BATCHES, clients, counts)
    np.testing.assert_array_equal(words, keystream.words(Stream.BATCHES, clients, counts))


@pytest.mark.parametrize("secure", [False, True])
def test_normals_are_those_of_the_key_stream(secure):
    module, task = chain("logistic")
    keystream, clients = Keystream(bytes(range(32)), 3, secure), torch.tensor([0, 5, 2**31 + 3])
    for count in (1, 159, 40_001):
        found = NativeTrainer(module, task, workers=2).normals(keystream, Stream.LOCAL_NOISE, clients, 9, count)
        expected = keystream.normals(Stream.LOCAL_NOISE, clients, 9, count)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if secure else 1e-5)


def test_gradients_alone_are_the_vectorised_trainers(federation):
    """The replay that guards DP-SGD asks for them."""
    made = federation("engine.trainer=native", text=SMALL + EXAMPLE_PRIVACY)
    assert made.trainer_name == "native"


def test_regression_is_its_own_and_reconstruction_is_not():
    scenario = replace(parse_scenario(SMALL, "x", ["population.partition={kind='iid'}"]), data=Made(kind="numbers"))
    assert build_federation(scenario).trainer_name == "native"
    other = build_federation(replace(scenario, task=Reconstruction()))
    assert other.trainer_name == "vectorised"
    assert "not reconstruction" in other.trainer_reason


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ('algorithm.local.optimizer="adam"', "SGD with momentum"),
        ("algorithm.local.options={maximize=true}", "SGD with momentum"),
        ('privacy.example.clipping={kind="per_layer"}', "layer by layer"),
    ],
)
def test_what_it_cannot_do_goes_elsewhere_and_says_why(federation, override, reason):
    made = federation(override, text=SMALL + EXAMPLE_PRIVACY)
    assert made.trainer_name == "vectorised"
    assert reason in made.trainer_reason
    with pytest.raises(BadInput, match=reason):
        federation(override, "engine.trainer=native", text=SMALL + EXAMPLE_PRIVACY)


@pytest.fixture
def _nothing_compiled(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    build.library.cache_clear()
    yield
    build.library.cache_clear()


@pytest.mark.usefixtures("_nothing_compiled")
def test_without_a_compiler_training_goes_on_without_it(federation, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    made = federation()
    assert made.trainer_name == "vectorised"
    assert "no C++ compiler" in made.trainer_reason


@pytest.mark.usefixtures("_nothing_compiled")
def test_a_broken_compiler_is_named(federation, monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    made = federation()
    assert made.trainer_name == "vectorised"
    assert "broken failed: no space left" in made.trainer_reason
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.usefixtures("_nothing_compiled")
def test_a_damaged_library_is_made_again(monkeypatch):
    compiled = []
    monkeypatch.setattr(build, "_compile", lambda compiler, file: compiled.append(file) or file.write_bytes(b"torn"))
    with pytest.raises(build.NoNative, match="cannot be loaded"):
        build.library()
    with pytest.raises(build.NoNative):
        build.library()
    assert len(compiled) == 2


def test_the_named_trainer_is_the_one(federation):
    made = federation()
    assert pick_trainer(made.scenario, made.module, made.task)[0] == "native"
