"""The vectorised trainer's kernels against autograd, and the whole trainer against the reference."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fedsim.algorithms import FedAvg, FedProx, LocalTraining
from fedsim.data.dataset import Dataset, Examples
from fedsim.models.layers import Dropout
from fedsim.params import Layout
from fedsim.privacy.clipping import clipped_sums
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.mechanism import GaussianSums
from fedsim.seeding import Stream
from fedsim.tasks import Classification
from fedsim.training import OpacusTrainer, VectorisedTrainer, chain, vectorised
from fedsim.training.program import NotAChain, program_of
from fedsim.training.work import Batch, Work

CLASSES = 5
CLIENTS, BATCH = 3, 4


def make_task(shape, records=60, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((records, *shape)).astype(np.float32)
    examples = Examples(features, rng.integers(0, CLASSES, records))
    return Classification.of(Dataset(examples, examples, tuple("abcde")), torch.device("cpu"))


def seeded(module, seed=0):
    """Every parameter random, also those that start as zeros or ones."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / max(1, parameter[0].numel()) ** 0.5)
    return module


def built(*layers):
    with torch.random.fork_rng(devices=[]):
        return seeded(nn.Sequential(*(layer() for layer in layers)))


def convolution(seed):
    """A random convolution, another layer before it, so that its own delta is tested too."""
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 5, 2).tolist(), rng.integers(1, 4, 2).tolist()
    padding = [int(rng.integers(0, k)) for k in kernel]
    channels, inner, outputs = rng.integers(1, 5, 3).tolist()
    shape = (channels, *rng.integers(5, 10, 2).tolist())
    made = [
        lambda: nn.Conv2d(channels, inner, 1),
        lambda: nn.Conv2d(inner, outputs, kernel, stride, padding, bias=bool(rng.integers(2))),
        nn.Flatten,
    ]
    return shape, made


def pooling(seed):
    rng = np.random.default_rng(seed)
    kernel, stride = rng.integers(1, 4, 2).tolist(), rng.integers(1, 4, 2).tolist()
    channels = int(rng.integers(1, 4))
    shape = (channels, *rng.integers(4, 9, 2).tolist())
    return shape, [lambda: nn.Conv2d(channels, 3, 1), nn.ReLU, lambda: nn.MaxPool2d(kernel, stride), nn.Flatten]


def conv_then(*layers):
    return (2, 5, 4), [lambda: nn.Conv2d(2, 4, 2), *layers, nn.Flatten]


CASES = {
    **{f"convolution {seed}": convolution(seed) for seed in range(8)},
    **{f"pooling {seed}": pooling(seed) for seed in range(6)},
    "dense": ((7,), [lambda: nn.Linear(7, 6), lambda: nn.Linear(6, 3, bias=False)]),
    "raw image to dense": ((2, 3, 4), [nn.Flatten, lambda: nn.Linear(24, 6)]),
    "relu": ((7,), [lambda: nn.Linear(7, 6), nn.ReLU]),
    "tanh": ((7,), [lambda: nn.Linear(7, 6), nn.Tanh]),
    "sigmoid": ((7,), [lambda: nn.Linear(7, 6), nn.Sigmoid]),
    "gelu": ((7,), [lambda: nn.Linear(7, 6), nn.GELU]),
    "dropout": ((7,), [lambda: Dropout(0.3), lambda: nn.Linear(7, 6), lambda: Dropout(0.5)]),
    "dropout of an image": conv_then(lambda: Dropout(0.3), lambda: nn.Conv2d(4, 3, 2), lambda: Dropout(0.4)),
    "dropout of the raw image": ((2, 5, 4), [lambda: Dropout(0.3), lambda: nn.Conv2d(2, 4, 2), nn.Flatten]),
    "group norm": conv_then(lambda: nn.GroupNorm(2, 4), nn.Tanh),
    "instance norm by groups": conv_then(lambda: nn.GroupNorm(4, 4, affine=False)),
    "group norm of a vector": ((7,), [lambda: nn.Linear(7, 6), lambda: nn.GroupNorm(3, 6)]),
    "group norm of the raw image": ((4, 3, 5), [lambda: nn.GroupNorm(2, 4), nn.Flatten]),
    "layer norm": ((7,), [lambda: nn.Linear(7, 6), lambda: nn.LayerNorm(6, bias=False)]),
    "layer norm of an image": conv_then(lambda: nn.LayerNorm((4, 4, 3)), nn.ReLU),
}


@pytest.fixture(params=[500_000, -1], ids=["unfolded", "direct"])
def _convolutions(request, monkeypatch):
    """Both kernels for convolutions."""
    monkeypatch.setattr(chain, "DIRECT", request.param)


def case(name, dtype):
    """A model, its trainer, weights and a batch; some places are padding."""
    shape, layers = CASES[name]
    body = built(*layers)
    with torch.no_grad():
        trial = copy.deepcopy(body).eval()
        body.append(built(lambda: nn.Linear(trial(torch.zeros(1, *shape)).shape[1], CLASSES))[0])
    trainer = VectorisedTrainer(body, make_task(shape))
    rng = torch.Generator().manual_seed(1)
    trainer.module.to(dtype)
    flat = start_of(body)
    weights = flat + 0.1 * torch.randn(CLIENTS, len(flat), generator=rng, dtype=dtype)
    features = torch.randn(CLIENTS, BATCH, *shape, generator=rng, dtype=dtype)
    if "norm" not in name:  # which would divide by no spread at all
        features[0, 0] = 0  # equal values tie in max-pooling
    labels = torch.randint(0, CLASSES, (CLIENTS, BATCH), generator=rng)
    mask = torch.tensor([[True] * 4, [True, True, False, False], [True] + [False] * 3])
    masks = [
        (torch.rand(CLIENTS, BATCH, *s, generator=rng) >= layer.p).to(dtype) / (1 - layer.p)
        for layer, s in zip(trainer.dropout_layers, trainer.dropout_shapes, strict=True)
    ]
    return trainer, weights, Batch(features, labels, mask, masks)


def own_gradients(trainer, weights, batch):
    """Every example's own gradient ``[clients, batch, params]``, by autograd."""
    rows = []
    for client in range(len(weights)):
        for place in range(batch.mask.shape[1]):
            flat = weights[client].clone().requires_grad_()
            for layer, mask in zip(trainer.dropout_layers, batch.dropout_masks, strict=True):
                layer.mask = mask[client, [place]]
            outputs = functional_call(
                trainer.module.train(), trainer.layout.views(flat), (batch.features[client, [place]],)
            )
            loss = functional.cross_entropy(outputs, batch.labels[client, [place]])
            rows.append(torch.autograd.grad(loss, flat)[0])
    return torch.stack(rows).view(len(weights), -1, weights.shape[1])


@pytest.mark.usefixtures("_convolutions")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_what_autograd_computes(name, dtype):
    trainer, weights, batch = case(name, dtype)
    assert trainer.chain is not None
    tolerance = {"rtol": 2e-4, "atol": 2e-6} if dtype is torch.float32 else {"rtol": 1e-9, "atol": 1e-12}
    own = own_gradients(trainer, weights, batch)
    shares = batch.mask / batch.mask.sum(1, keepdim=True)
    expected = torch.einsum("cb,cbp->cp", shares.to(dtype), own)
    torch.testing.assert_close(trainer.plain(weights, batch), expected, **tolerance)
    for per_layer in (False, True):
        norms = own.double().norm(dim=2)
        clip_norm = float(norms.median())
        sums, counts = trainer.clipped(weights, batch, clip_norm * 1.001, per_layer)
        sizes = trainer.layout.sizes if per_layer else None
        expected, expected_counts = clipped_sums(own, batch.mask, clip_norm * 1.001, sizes)
        torch.testing.assert_close(sums, expected, **tolerance)
        torch.testing.assert_close(counts, expected_counts)


def test_the_losses_gradient_is_what_autograd_computes():
    rng = torch.Generator().manual_seed(0)
    outputs = torch.randn(9, CLASSES, generator=rng, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, CLASSES, (9,), generator=rng)
    expected = torch.autograd.grad(Classification.losses(outputs, labels).sum(), outputs)[0]
    torch.testing.assert_close(Classification.gradient(outputs.detach(), labels), expected)


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


def make_work(lengths, noise_multiplier=None, clip_norm=0.3, per_layer=False, count_noise=None, records=60):
    """Work of clients who share no records; ``lengths`` of each client's steps, longest first."""
    steps = max(len(own) for own in lengths)
    table = np.array([own + [-1] * (steps - len(own)) for own in lengths])
    clients = np.arange(len(lengths), dtype=np.int64) * 3 + 1
    chosen = np.random.default_rng(5).permutation(records)[: np.maximum(table, 0).sum()]
    keystream, noise = Keystream.of("reproducible", 4, 2), None
    if noise_multiplier is not None:
        events = (Event(noise_multiplier), Event(2 * noise_multiplier))
        kinds = np.arange(len(lengths)) % 2
        noise = GaussianSums(clients, events, kinds, clip_norm, count_noise, keystream, Stream.NOISE)
    return Work(clients, chosen, table, keystream, 4, noise, per_layer)


def trainers(model, task=None):
    module = built(*MODELS[model])
    task = task or make_task(SHAPE)
    return VectorisedTrainer(copy.deepcopy(module), task), OpacusTrainer(copy.deepcopy(module), task), start_of(module)


def start_of(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def agree(fast, slow, **tolerance):
    torch.testing.assert_close(fast.updates, slow.updates, **{"rtol": 1e-3, "atol": 2e-6, **tolerance})
    assert fast.spent == slow.spent
    assert fast.unclipped == pytest.approx(slow.unclipped)
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
    results = [trainer.train(ALGORITHMS[algorithm], start, work) for trainer in (fast, slow)]
    agree(*results, **tolerance)


@pytest.mark.parametrize("model", MODELS)
def test_clipping_per_layer_agrees_with_the_reference(model):
    fast, slow, start = trainers(model)
    work = make_work(POISSON, 1e-6, per_layer=True)
    agree(*(trainer.train(ALGORITHMS["sgd"], start, work) for trainer in (fast, slow)))


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_an_example_that_is_not_finite_counts_as_zero(model, per_layer, value):
    task = make_task(SHAPE)
    work = make_work(POISSON, 1e-6, per_layer=per_layer)
    fast, slow, start = trainers(model, task)
    clean = fast.train(ALGORITHMS["sgd"], start, work).updates
    task.features[work.batch(0, 0)[1]] = value
    results = [trainer.train(ALGORITHMS["sgd"], start, work) for trainer in (fast, slow)]
    agree(*results)
    assert not torch.equal(results[0].updates[0], clean[0])
    torch.testing.assert_close(results[0].updates[1:], clean[1:])


@pytest.mark.parametrize("model", MODELS)
def test_one_clients_nan_does_not_touch_another(model):
    """Also where it stands in a padded place of the other's batch."""
    task = make_task(SHAPE)
    work = make_work(UNEVEN)
    fast, _, start = trainers(model, task)
    clean = fast.train(ALGORITHMS["sgd"], start, work).updates
    step = fast.train(ALGORITHMS["momentum"], start, work).updates
    poisoned = int(work.batch(0, 0)[0])
    task.features[[0, poisoned]] = task.features[[poisoned, 0]]
    work.records[:] = np.where(work.records == 0, poisoned, np.where(work.records == poisoned, 0, work.records))
    task.features[0] = float("nan")
    for algorithm, expected in (("sgd", clean), ("momentum", step)):
        updates = fast.train(ALGORITHMS[algorithm], start, work).updates
        assert not torch.isfinite(updates[0]).all()
        torch.testing.assert_close(updates[1:], expected[1:])


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("algorithm", ["sgd", "momentum"])
def test_chunks_slices_and_threads_change_nothing(algorithm, private, monkeypatch):
    work = make_work(POISSON, 1.0) if private else make_work(UNEVEN)
    fast, _, start = trainers("cnn")
    whole = fast.train(ALGORITHMS[algorithm], start, work)
    monkeypatch.setattr(vectorised, "CPU_CHUNK_BYTES", 1)
    monkeypatch.setattr(vectorised, "SLICE_BYTES", 1)
    assert fast.chunk_length(4, private) == 1
    agree(fast.train(ALGORITHMS[algorithm], start, work), whole)
    with ThreadPoolExecutor(2) as pool:
        parts = [work.rows(row, row + 1) for row in range(4)] * 4
        results = list(pool.map(lambda part: fast.train(ALGORITHMS[algorithm], start, part).updates, parts))
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
        agree(*(trainer.train(ALGORITHMS["sgd"], start_of(module), work) for trainer in (fast, slow)))


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
        agree(*(trainer.train(ALGORITHMS["momentum"], start, work) for trainer in (fast, slow)))
    assert Layout.of(module).size == len(start)
