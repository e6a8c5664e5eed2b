"""Our attention and encoder layers against torch's own, with the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedsim.errors import BadInput
from fedsim.models.attention import EncoderLayer, MultiheadAttention
from fedsim.models.layers import dropout_layers
from fedsim.models.recurrent import LSTM
from fedsim.models.replace import replace_layers

BATCH, LENGTH, KEYS, WIDTH, HEADS = 3, 5, 7, 8, 2


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def seeded(build):
    """A module whose parameters are all random, also those that start as zeros or ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build()
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.4)
    return module


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


PAIRS = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
PADDING = torch.arange(LENGTH) >= torch.tensor([LENGTH, 3, 1])[:, None]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": PAIRS, "is_causal": True},
        {"attn_mask": draw(BATCH * HEADS, LENGTH, LENGTH)},
        {"key_padding_mask": PADDING},
        {"attn_mask": PAIRS, "key_padding_mask": PADDING, "average_attn_weights": False},
    ],
    ids=["none", "causal", "added", "padding", "both"],
)
def test_self_attention_is_torchs(masks, batch_first):
    theirs = seeded(lambda: nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first))
    x = draw(BATCH, LENGTH, WIDTH) if batch_first else draw(LENGTH, BATCH, WIDTH)
    close(MultiheadAttention.of(theirs)(x, x, x, **masks), theirs(x, x, x, **masks))


@pytest.mark.parametrize("bias", [False, True])
def test_attention_to_other_keys_of_other_sizes_is_torchs(bias):
    theirs = seeded(lambda: nn.MultiheadAttention(WIDTH, HEADS, bias=bias, kdim=6, vdim=4, batch_first=True))
    inputs = draw(BATCH, LENGTH, WIDTH), draw(BATCH, KEYS, 6), draw(BATCH, KEYS, 4)
    ours = MultiheadAttention.of(theirs)
    close(ours(*inputs), theirs(*inputs))
    alone = [part[0] for part in inputs]
    close(ours(*alone), theirs(*alone))
    assert ours(*inputs, need_weights=False)[1] is None


def test_gradients_are_torchs():
    theirs, x = seeded(lambda: nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)), draw(BATCH, LENGTH, WIDTH)
    ours = MultiheadAttention.of(theirs)
    theirs(x, x, x)[0].sin().sum().backward()
    ours(x, x, x)[0].sin().sum().backward()
    for part in ("weight", "bias"):
        found = torch.cat([getattr(layer, part).grad for layer in (ours.query, ours.key, ours.value)])
        close(found, getattr(theirs, f"in_proj_{part}").grad)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_is_torchs(activation):
    options = {"dropout": 0.0, "activation": activation, "batch_first": True, "norm_first": True}
    theirs = seeded(lambda: nn.TransformerEncoderLayer(WIDTH, HEADS, 11, **options))
    with torch.random.fork_rng(devices=[]):
        ours = EncoderLayer(WIDTH, HEADS, 11, activation, 0.0)
    ours.self_attn = MultiheadAttention.of(theirs.self_attn)
    for name in ("norm1", "norm2", "linear1", "linear2"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    x = draw(BATCH, LENGTH, WIDTH)
    close(ours(x, PAIRS, PADDING), theirs(x, PAIRS, PADDING))
    close(ours(x), theirs(x))


class Users(nn.Module):
    """torch's encoder, an LSTM that is used in two places, and cross-attention."""

    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 11, 0.0, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.inner = nn.ModuleDict({"again": self.lstm, "cross": nn.MultiheadAttention(WIDTH, HEADS, 0.25)})

    def forward(self, x):
        x = self.inner["again"](self.lstm(self.encoder(x))[0])[0].transpose(0, 1)
        return self.inner["cross"](x, x, x)[0].transpose(0, 1)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("options", [{}, {"norm_first": True}])
def test_torchs_layers_in_a_users_module_are_replaced_and_compute_the_same(options):
    module = seeded(lambda: Users(**options)).eval()
    x = draw(BATCH, LENGTH, WIDTH)
    expected = module(x)
    replace_layers(module, "own:Users")
    assert not [part for part in module.modules() if isinstance(part, nn.LSTM | nn.MultiheadAttention | nn.Dropout)]
    assert isinstance(module.lstm, LSTM)
    assert module.inner["again"] is module.lstm
    assert [layer.p for layer in dropout_layers(module)] == [0.25]
    close(module(x), expected)
    module.inner["cross"].drop.p = 0.0
    close(module.train()(x), expected)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.LSTM(4, 4, proj_size=2), "proj_size"),
        (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), "add_bias_kv"),
        (lambda: nn.MultiheadAttention(4, 2, add_zero_attn=True), "add_zero_attn"),
    ],
)
def test_options_that_ours_lack_are_refused(build, words):
    module = nn.ModuleList([seeded(build)])
    with pytest.raises(BadInput, match=rf'model\.name = "own:Net" has .*{words}'):
        replace_layers(module, "own:Net")


def test_frozen_parameters_stay_frozen_and_torchs_layers_lose_no_parameter():
    layer = seeded(lambda: nn.MultiheadAttention(WIDTH, HEADS))
    layer.in_proj_weight.requires_grad_(False)
    ours = MultiheadAttention.of(layer)
    assert [layer.weight.requires_grad for layer in (ours.query, ours.key, ours.value)] == [False] * 3
    assert ours.out_proj.weight.requires_grad
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in layer.parameters())
