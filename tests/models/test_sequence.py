"""Models of sequences and images: padding, causality, what they refuse, and the obvious computation of each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedsim.errors import BadInput
from fedsim.models import MODELS, Signature, build_model, sequence
from fedsim.models.layers import normalisation_layers
from fedsim.models.transformer import positions
from fedsim.params import vector_of
from tests.samples import LENGTH, VOCABULARY, examples_of

TEXTS, NEXT = Signature((LENGTH,), (10,), VOCABULARY), Signature((LENGTH,), (LENGTH, VOCABULARY), VOCABULARY)
NAMES = ("lstm", "transformer")


def built(name, signature, **options):
    return build_model(MODELS[name](**options), signature, 0).eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_padding_at_the_end_changes_nothing_and_a_zero_within_a_text_does(name):
    module = built(name, TEXTS, layers=2)
    text = torch.tensor([[3, 0, 5, 2]])
    padded = torch.cat([text, torch.zeros(1, LENGTH - 4, dtype=torch.int64)], dim=1)
    close(module(padded), module(text))
    assert not torch.allclose(module(text), module(torch.tensor([[3, 5, 2]])))
    assert torch.isfinite(module(torch.zeros(1, LENGTH, dtype=torch.int64))).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_positions_outputs_do_not_depend_on_later_positions(name):
    module, text = built(name, NEXT, layers=2), examples_of(NEXT)
    result = module(text)
    for cut in range(1, LENGTH):
        close(module(text[:, :cut]), result[:, :cut])
    changed = text.clone()
    changed[:, 4] = (changed[:, 4] + 1) % VOCABULARY
    assert not torch.allclose(module(changed)[:, 4:], result[:, 4:])


@pytest.mark.parametrize("name", NAMES)
def test_many_examples_are_evaluated_in_pieces(name, monkeypatch):
    module, examples = built(name, TEXTS), examples_of(TEXTS, 11)
    whole = module(examples)
    monkeypatch.setattr(sequence, "EVALUATED_TOGETHER", 4)
    with torch.inference_mode():
        close(module(examples), whole)


def test_an_lstm_model_is_embedding_lstm_and_a_linear_layer_of_the_last_state():
    module, text = built("lstm", TEXTS, hidden=6, layers=2, embedding=3), examples_of(TEXTS).clamp(min=1)
    with torch.random.fork_rng(devices=[]):
        plain = nn.LSTM(3, 6, 2, batch_first=True)
    for number, cell in enumerate(module.body.lstm.cells):
        for name, layer in (("ih", cell.inputs), ("hh", cell.states)):
            setattr(plain, f"weight_{name}_l{number}", layer.weight)
            setattr(plain, f"bias_{name}_l{number}", layer.bias)
    close(module(text), module.head(plain(module.embed(text))[0][:, -1]))


def test_a_transformer_model_is_torchs_encoder_between_positions_and_a_mean():
    signature = Signature((LENGTH, 3), (10,))
    module = built("transformer", signature, width=8, heads=2, feedforward=11, activation="relu")
    x = examples_of(signature)
    with torch.random.fork_rng(devices=[]):
        layers = [nn.TransformerEncoderLayer(8, 2, 11, 0.0, batch_first=True, norm_first=True) for _ in range(2)]
    states = module.embed(x) + positions(LENGTH, 8, x)
    for plain, ours in zip(layers, module.body.layers, strict=True):
        for name in ("norm1", "norm2", "linear1", "linear2"):
            getattr(plain, name).load_state_dict(getattr(ours, name).state_dict())
        attention = ours.self_attn
        projections = attention.query, attention.key, attention.value
        with torch.no_grad():
            plain.self_attn.in_proj_weight.copy_(torch.cat([part.weight for part in projections]))
            plain.self_attn.in_proj_bias.copy_(torch.cat([part.bias for part in projections]))
        plain.self_attn.out_proj.load_state_dict(attention.out_proj.state_dict())
        states = plain(states)
    close(module(x), module.head(module.body.norm(states).mean(1)))


def test_positions_are_the_papers_sines_and_cosines():
    found = positions(5, 7, torch.zeros(()))
    for place in range(5):
        for at in range(7):
            angle = place / 10_000 ** (at // 2 * 2 / 7)
            assert float(found[place, at]) == pytest.approx(math.cos(angle) if at % 2 else math.sin(angle), abs=1e-6)


def test_a_residual_network_is_the_papers():
    module = built("resnet", Signature((3, 8, 8), (10,)), widths=(4, 6), blocks=2)
    x, weights = examples_of(Signature((3, 8, 8), (10,))), list(module.parameters())
    normalise = iter(weights)

    def convolve(x, stride, groups):
        weight, bias, scale, shift = (next(normalise) for _ in range(4))
        return functional.group_norm(
            functional.conv2d(x, weight, bias, stride, weight.shape[2] // 2), groups, scale, shift
        )

    x = convolve(x, 1, 2).relu()
    for stride, groups in ((1, 2), (1, 2), (2, 3), (1, 3)):
        inner = convolve(convolve(x, stride, groups).relu(), 1, groups)
        x = (inner + (convolve(x, 2, groups) if stride == 2 else x)).relu()
    close(module(examples_of(Signature((3, 8, 8), (10,)))), functional.linear(x.mean((2, 3)), *normalise))
    assert len([1 for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]) == 9


def test_the_published_residual_network_of_twenty_layers_has_its_parameters():
    module = built("resnet", Signature((3, 32, 32), (10,)), blocks=3)
    sizes = {
        kind: sum(p.numel() for layer in module.modules() if isinstance(layer, kind) for p in layer.parameters())
        for kind in (nn.Conv2d, nn.GroupNorm, nn.Linear)
    }
    # He et al. 2016, table 6: 0.27 million. Here convolutions have biases, and projections instead of paddings.
    projections, biases = 16 * 32 + 32 * 64, 16 * 7 + (32 + 64) * 7
    kernels = 3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2
    assert sizes[nn.Conv2d] - projections - biases == 9 * kernels
    assert round((sum(sizes.values()) - projections) / 1e6, 2) == 0.27


@pytest.mark.parametrize("name", ["linear", "logistic"])
def test_a_linear_model_starts_at_zero_and_learns_by_the_closed_form(name):
    signature = Signature((6,), (3,))
    module, x = built(name, signature), examples_of(signature, 20)
    assert not vector_of(module).any()
    y = torch.arange(20) % 3
    functional.cross_entropy(module(x), y).backward()
    gap = functional.one_hot(y, 3) - torch.full((3,), 1 / 3)
    close(module[1].weight.grad, -(gap.T @ x) / 20)


@pytest.mark.parametrize(("channels", "groups"), [(16, 8), (64, 32), (7, 1), (6, 3), (1, 1), (96, 32)])
def test_groups_divide_the_channels_and_have_two_or_more_of_them(channels, groups):
    assert normalisation_layers("group", channels)[0].num_groups == groups
    assert normalisation_layers("layer", channels)[0].num_groups == 1
    assert normalisation_layers("none", channels) == []


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
@pytest.mark.parametrize("how", ["group", "layer", "none"])
def test_normalisation_is_the_one_named(name, how):
    module = built(name, Signature((1, 8, 8), (10,)), normalisation=how)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.GroupNorm)]
    assert bool(norms) == (how != "none")
    assert all((layer.num_groups == 1) == (how == "layer") for layer in norms)


@pytest.mark.parametrize(
    ("name", "signature", "words"),
    [
        ("mlp", TEXTS, r'"mlp" takes numbers; an example here is \[9\] tokens out of 7. Use "lstm" or "transformer"'),
        ("logistic", NEXT, '"logistic" takes numbers'),
        ("mlp", Signature((9, 2), (9, 3)), r"one vector per example; the task needs \[9, 3\]"),
        ("resnet", Signature((8, 8), (10,)), r"needs images .* \[8, 8\]"),
        ("cnn", TEXTS, '"cnn" takes numbers'),
        (
            "lstm",
            Signature((64,), (10,)),
            r"of numbers \[length, channels\]; an example here is \[64\]",
        ),
        ("transformer", Signature((4, 4), (10,), 7), r"needs tokens \[length\]; an example here is \[4, 4\]"),
        ("lstm", Signature((9,), (8, 7), 7), r"one per position; the task needs \[8, 7\]"),
    ],
)
def test_a_model_that_does_not_fit_says_so(name, signature, words):
    with pytest.raises(BadInput, match=r"model\.name = .*" + words):
        build_model(MODELS[name](), signature, 0)


def test_heads_must_divide_the_width():
    with pytest.raises(BadInput, match=r"model\.heads = 3: must divide model\.width = 64"):
        built("transformer", TEXTS, heads=3)


def test_softmax_regression_reaches_scikit_learns_optimum():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((90, 4)), rng.integers(0, 3, 90)
    module = built("logistic", Signature((4,), (3,))).double()
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        return loss

    optimizer.step(closure)
    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y).predict_proba(x)
    found = module(torch.from_numpy(x)).softmax(1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
