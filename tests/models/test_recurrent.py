"""Our LSTM against torch's own, and its hand-written recurrence against numerical gradients and single clients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from fedsim.models.recurrent import LSTM
from fedsim.models.scan import scan

BATCH, LENGTH, INPUTS, HIDDEN = 3, 6, 5, 4


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def torchs(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.LSTM(INPUTS, HIDDEN, **options).double()


def loss(result):
    states, (state, cell) = result
    return states.sin().sum() + state.cos().sum() + cell.square().sum()


@pytest.mark.parametrize("hooked", [False, True], ids=["scan", "step by step"])
@pytest.mark.parametrize("first", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize(
    "options",
    [{}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "batch_first": True}, {"bias": False}],
    ids=str,
)
def test_results_and_gradients_are_those_of_torchs_lstm(options, first, hooked):
    theirs = torchs(**options)
    ours = LSTM.of(theirs)
    if hooked:
        for cell in ours.cells:
            cell.states.register_forward_hook(lambda *_: None)
    x = draw(*((BATCH, LENGTH) if theirs.batch_first else (LENGTH, BATCH)), INPUTS).requires_grad_()
    start = tuple(draw(len(ours.cells), BATCH, size).requires_grad_() for size in (HIDDEN, HIDDEN)) if first else None
    inputs = [*theirs.parameters(), x, *(start or ())]
    results = [layer(x, start) for layer in (theirs, ours)]
    torch.testing.assert_close(results[1], results[0])
    expected, found = (torch.autograd.grad(loss(result), inputs) for result in results)
    torch.testing.assert_close(found, expected)


def test_a_single_sequence_without_a_batch_is_taken_as_torch_does():
    theirs, x = torchs(num_layers=2), draw(LENGTH, INPUTS)
    start = draw(2, HIDDEN), draw(2, HIDDEN)
    torch.testing.assert_close(LSTM.of(theirs)(x, start), theirs(x, start))


def test_the_recurrences_gradients_are_the_numerical_ones():
    tensors = (draw(4, 2, 4 * 3), draw(4 * 3, 3), draw(2, 3), draw(2, 3))
    assert torch.autograd.gradcheck(scan, tuple(tensor.requires_grad_() for tensor in tensors))


def test_mapped_over_clients_and_examples_it_is_the_loop_over_them():
    layer = LSTM.of(torchs(num_layers=2, batch_first=True))
    weights = {name: draw(2, *p.shape) * 0.4 for name, p in layer.named_parameters()}
    x = draw(2, BATCH, LENGTH, INPUTS)

    def example_loss(weights, x):
        return loss(functional_call(layer, weights, (x[None],)))

    found = vmap(vmap(grad(example_loss), in_dims=(None, 0)))(weights, x)
    totals = vmap(grad(lambda weights, x: loss(functional_call(layer, weights, (x,)))))(weights, x)
    for client in range(2):
        own = {name: value[client] for name, value in weights.items()}
        single = [grad(example_loss)(own, x[client, row]) for row in range(BATCH)]
        for name in weights:
            expected = torch.stack([gradient[name] for gradient in single])
            torch.testing.assert_close(found[name][client], expected)
            torch.testing.assert_close(totals[name][client], expected.sum(0))


def test_it_starts_as_torchs_lstm_does():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        values = torch.cat([p.detach().flatten() for p in LSTM(30, 100).parameters()])
    assert values.abs().max() <= 0.1
    assert float(values.std()) == pytest.approx(0.2 / 12**0.5, rel=0.02)  # 53,000 values: 12 standard deviations


def test_an_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="proj_size"):
        LSTM(3, 4, proj_size=2)
