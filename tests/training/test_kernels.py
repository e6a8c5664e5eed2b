"""The vectorised trainer's kernels against autograd."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fedsim.models.layers import Dropout
from fedsim.privacy.clipping import clipped_sums
from fedsim.tasks import Classification
from fedsim.training import VectorisedTrainer, chain
from fedsim.training.work import Batch
from tests.training.chains import CLASSES, built, make_task, start_of

CLIENTS, BATCH = 3, 4


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
    expected = torch.autograd.grad(Classification().losses(outputs, labels).sum(), outputs)[0]
    torch.testing.assert_close(Classification().gradient(outputs.detach(), labels), expected)
