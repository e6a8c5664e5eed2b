"""The autoencoder: shapes that come back, its layers against plain functions, and the trainers against each other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedsim.errors import BadInput
from fedsim.models import Autoencoder, Signature, build_model
from fedsim.models.layers import ACTIVATIONS
from tests.conftest import EXAMPLE_PRIVACY, SMALL, local_problem, trainer_of, without_noise, work_of

SETTINGS = 'model={name="autoencoder", channels=[4, 5], bottleneck=6, activation="tanh"}'


def built(shape, seed=0, **settings):
    return build_model(Autoencoder(**settings), Signature(shape, shape), seed)


@pytest.mark.parametrize("channels", [(3,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 7, 12), (1, 1, 1)])
def test_an_image_comes_back_in_its_size(shape, channels):
    module = built(shape, channels=channels, bottleneck=5).eval()
    records = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    together = module(records)
    assert together.shape == records.shape
    torch.testing.assert_close(torch.cat([module(row[None]) for row in records]), together, rtol=1e-5, atol=1e-6)


def transposed(x, weight, bias, more):
    """A transposed convolution of stride 2 and padding 1 as what it means: every value adds its kernel."""
    height, width = (2 * size - 1 + extra for size, extra in zip(x.shape[2:], more, strict=True))
    padded = torch.zeros(len(x), weight.shape[1], height + 2, width + 2)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            spread = torch.einsum("ni,iokl->nokl", x[:, :, row, column], weight)
            padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += spread
    return padded[:, :, 1:-1, 1:-1] + bias[:, None, None]


def test_it_is_the_obvious_function_of_its_parameters():
    module = built((1, 7, 8), channels=(2, 3), bottleneck=4, activation="tanh").eval()
    c1, c1b, c2, c2b, w1, b1, w2, b2, d1, d1b, d2, d2b = (p.detach() for p in module.parameters())
    x = torch.rand(2, 1, 7, 8, generator=torch.Generator().manual_seed(1))
    hidden = torch.tanh(functional.conv2d(x, c1, c1b, 2, 1))
    hidden = torch.tanh(functional.conv2d(hidden, c2, c2b, 2, 1)).flatten(1)
    hidden = torch.tanh(torch.tanh(hidden @ w1.T + b1) @ w2.T + b2).view(2, 3, 2, 2)
    hidden = torch.tanh(transposed(hidden, d1, d1b, (1, 1)))
    torch.testing.assert_close(module(x), transposed(hidden, d2, d2b, (0, 1)))


def test_its_settings_take_effect():
    for name, layer in ACTIVATIONS.items():
        module = built((1, 8, 8), activation=name)
        assert {type(m) for m in module if isinstance(m, tuple(ACTIVATIONS.values()))} == {layer}
    module = built((3, 8, 8), channels=(4, 6), bottleneck=7)
    assert next(m.out_features for m in module if isinstance(m, nn.Linear)) == 7
    assert [m.out_channels for m in module if isinstance(m, nn.Conv2d)] == [4, 6]
    assert [m.out_channels for m in module if isinstance(m, nn.ConvTranspose2d)] == [4, 3]
    assert not torch.equal(module[0].weight, built((3, 8, 8), 1, channels=(4, 6), bottleneck=7)[0].weight)
    he = built((1, 8, 8), initialisation="he")
    assert all((m.bias == 0).all() for m in he if hasattr(m, "bias"))


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ((1, 8, 8), (10,), r'returns what it takes; set task = \{ kind = "reconstruction" \}'),
        ((64,), (64,), r"needs images .* an example here is \[64\]"),
    ],
)
def test_what_it_is_not_for_is_said(inputs, outputs, words):
    with pytest.raises(BadInput, match=words):
        build_model(Autoencoder(), Signature(inputs, outputs), 0)


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY], ids=["plain", "private"])
def test_the_trainers_agree(federation, loss, privacy):
    task = f'task={{kind="reconstruction", loss="{loss}"}}'
    made = federation(SETTINGS, task, "algorithm.local.steps=3", text=SMALL + privacy)
    assert made.trainer_name == "vectorised"
    work = work_of(made)
    work = without_noise(work) if privacy else work
    algorithm = made.scenario.algorithm
    fast, slow = (
        trainer_of(made, name).train(*local_problem(algorithm, made.start), work).updates
        for name in ("vectorised", "opacus")
    )
    assert float((fast - slow).norm()) < 2e-5 * float(slow.norm())
    assert float(slow.abs().max()) > 1e-3
