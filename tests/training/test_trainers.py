"""Both trainers against each other, and against the slow obvious loop and stock Opacus."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter

import pytest
import torch
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn

from fedsim.algorithms import ALGORITHMS, Given
from fedsim.errors import BadInput
from fedsim.params import bind_vector, vector_of
from fedsim.seeding import Stream
from fedsim.training import TRAINERS
from fedsim.training.work import make_batch
from tests.conftest import (
    EXAMPLE_PRIVACY,
    SMALL,
    batches_of,
    local_problem,
    trainer_of,
    why_not,
    without_noise,
    work_of,
)

OPTIMIZERS = {
    "sgd": 'algorithm.local.optimizer="sgd"',
    "momentum": "algorithm.local.options={momentum=0.9, nesterov=true, weight_decay=0.01}",
    "adam": 'algorithm.local.optimizer="adam"',
}
MODELS = {
    "mlp with dropout": 'model={name="mlp", hidden=[8], dropout=0.3, activation="tanh"}',
    "cnn with dropout": 'model={name="cnn", convolutions=[{channels=3}], hidden=[6], dropout=0.2}',
}


def updates(federation, trainer, clients=range(6), round_=2, change=lambda work: work):
    """The clients' updates, in their order, and what ``train`` returned."""
    clients, work = list(clients), change(work_of(federation, clients, round_))
    trained = trainer_of(federation, trainer).train(
        *local_problem(federation.scenario.algorithm, federation.start), work
    )
    rows = [work.clients.tolist().index(client) for client in clients]
    return trained.updates[rows], trained


@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY], ids=["plain", "private"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_trainers_agree_for_the_same_draws(federation, privacy, optimizer, model):
    # Adam divides by a gradient's size, so one rounding of a tiny gradient shows larger there.
    tolerance = 2e-3 if optimizer == "adam" else 2e-5
    made = federation(OPTIMIZERS[optimizer], MODELS[model], "algorithm.local.learning_rate=0.05", text=SMALL + privacy)
    slow, slow_trained = updates(made, "opacus")
    assert bool(slow_trained.spent) == bool(privacy)
    assert slow.abs().max() > 1e-3
    for trainer in TRAINERS:
        if why_not(made, trainer) is None:
            fast, fast_trained = updates(made, trainer)
            torch.testing.assert_close(fast, slow, rtol=1e-3, atol=tolerance)
            assert fast_trained.spent == slow_trained.spent


def reports(federation, trainer):
    """What the algorithm's clients report and keep, from random states and a random memory."""
    algorithm, layout, work = federation.scenario.algorithm, federation.layout, work_of(federation)
    rng = torch.Generator().manual_seed(0)
    memory, state = (
        0.1 * torch.randn(size, generator=rng)
        for size in ((algorithm.memory_size(layout),), (6, algorithm.state_size(layout)))
    )
    given = Given(federation.start, memory, state[torch.from_numpy(work.clients)], federation.start, layout)
    return algorithm.train(trainer_of(federation, trainer), given, work)


@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY], ids=["plain", "private"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("algorithm", [name for name, cls in ALGORITHMS.items() if not cls.personalises])
def test_trainers_agree_on_what_every_algorithm_reports_and_keeps(federation, algorithm, optimizer, privacy):
    text = SMALL.replace('name = "fedavg"', f'name = "{algorithm}"') + privacy
    overrides = (OPTIMIZERS[optimizer], MODELS["mlp with dropout"], "algorithm.local.learning_rate=0.05")
    made = None
    with contextlib.suppress(BadInput):
        made = federation(*overrides, text=text)
    if made is None:  # what is refused is tested where it belongs
        assert privacy or optimizer != "sgd"
        return
    tolerance = 2e-3 if optimizer == "adam" else 5e-5
    slow = reports(made, "opacus")
    assert slow.updates.shape == (6, made.report_size)
    assert (slow.state is None) == (made.state_size == 0)
    for trainer in TRAINERS:
        if why_not(made, trainer) is None:
            fast = reports(made, trainer)
            torch.testing.assert_close(fast.updates, slow.updates, rtol=2e-3, atol=tolerance)
            if slow.state is not None:
                torch.testing.assert_close(fast.state, slow.state, rtol=2e-3, atol=20 * tolerance)
            assert fast.spent == slow.spent


@pytest.mark.parametrize("trainer", TRAINERS)
def test_whole_gradients_and_losses_are_torch_s(federation, trainer):
    made = federation("algorithm.local.l2=0.3", 'model={name="mlp", hidden=[8]}')
    ours, work = trainer_of(made, trainer), work_of(made)
    gradients = ours.full_gradients(made.scenario.algorithm.local, made.start, work)
    losses = ours.mean_losses(made.start, work)
    module = copy.deepcopy(made.module)
    bind_vector(module, made.start.clone())
    for row, client in enumerate(work.clients):
        records = made.population.records(client)
        loss = nn.functional.cross_entropy(module(made.task.features[records]), made.task.labels[records])
        flat = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(module.parameters()))])
        torch.testing.assert_close(gradients[row], flat + 0.3 * made.start, rtol=1e-4, atol=1e-6)
        assert float(losses[row]) == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_client_trains_the_same_in_any_block(federation, trainer):
    made = federation(MODELS["mlp with dropout"], text=SMALL + EXAMPLE_PRIVACY)
    together, _ = updates(made, trainer)
    alone = torch.cat([updates(made, trainer, [client])[0] for client in range(6)])
    backwards, _ = updates(made, trainer, range(5, -1, -1))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together, backwards.flip(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_plain_training_is_the_textbook_loop(federation, trainer):
    made = federation(
        "algorithm.local.epochs=3", "algorithm.local.batch_size=20", "algorithm.local.options={momentum=0.9}"
    )
    result, _ = updates(made, trainer)
    work = work_of(made)
    assert len(set(work.steps.tolist())) > 1
    for client in range(6):
        module = copy.deepcopy(made.module)
        bind_vector(module, made.start.clone())
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
        for batch in batches_of(work, client):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(made.task.features[batch]), made.task.labels[batch]).backward()
            optimizer.step()
        torch.testing.assert_close(result[client], vector_of(module) - made.start, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_private_training_is_the_one_example_at_a_time_loop(federation, trainer):
    made = federation(text=SMALL + EXAMPLE_PRIVACY)
    result, trained = updates(made, trainer)
    work, spent = work_of(made), Counter()
    for client in range(6):
        weights = made.start.clone()
        for step, batch in enumerate(batches_of(work, client)):
            total = torch.zeros_like(weights)
            for record in batch:
                total += clipped_gradient(made, weights, record, clip_norm=0.7)
            noise = work.keystream.normals(Stream.NOISE, torch.tensor([client]), step, len(weights))[0].float()
            weights = weights - 0.2 * (total + 1.1 * 0.7 * noise) / 64
            spent[made.plan.example.event(client)] += 1
        torch.testing.assert_close(result[client], weights - made.start, rtol=1e-4, atol=1e-5)
    assert trained.spent == spent


def clipped_gradient(federation, weights, record, clip_norm):
    module = copy.deepcopy(federation.module)
    bind_vector(module, weights)
    module.train()
    x, y = federation.task.features[[record]], federation.task.labels[[record]]
    grads = torch.autograd.grad(nn.functional.cross_entropy(module(x), y), list(module.parameters()))
    flat = torch.cat([g.reshape(-1) for g in grads])
    return flat * min(1.0, clip_norm / float(flat.norm()))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_clipped_sums_are_those_of_stock_opacus(federation, trainer):
    """The sums, and without noise the step that they make, are those of Opacus' own DP optimizer."""
    made = federation("algorithm.local.steps=1", text=SMALL + EXAMPLE_PRIVACY)
    work, ours = work_of(made), trainer_of(made, trainer)
    batch = make_batch(made.task, work, 0, ours.dropout_layers, ours.dropout_shapes)
    sums, _ = ours.clipped(made.start.repeat(6, 1), batch, 0.7)
    moved, _ = updates(made, trainer, work.clients.tolist(), change=without_noise)
    for row, client in enumerate(work.clients):
        records = made.population.records(client)
        batch = work.batch(row, 0)
        assert set(batch.tolist()) <= set(records.tolist())
        module = copy.deepcopy(made.module)
        bind_vector(module, made.start.clone())
        module.train()
        wrapped = GradSampleModule(module, loss_reduction="sum")
        optimizer = DPOptimizer(
            torch.optim.SGD(wrapped.parameters(), lr=0.2),
            noise_multiplier=0.0,
            max_grad_norm=0.7,
            expected_batch_size=64,
        )
        x = made.task.features[batch].requires_grad_()
        nn.functional.cross_entropy(wrapped(x), made.task.labels[batch], reduction="sum").backward()
        optimizer.step()
        total = 64 * torch.cat([p.grad.reshape(-1) for p in module.parameters()])
        assert total.norm() > 1
        torch.testing.assert_close(sums[row], total, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(moved[row], vector_of(module) - made.start, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_empty_batches_release_noise_and_count(federation, trainer):
    made = federation("privacy.example.sampling_rate=1e-6", "algorithm.local.steps=4", text=SMALL + EXAMPLE_PRIVACY)
    assert [len(batch) for batch in batches_of(work_of(made), 0)] == [0] * 4
    result, trained = updates(made, trainer, [0])
    assert trained.spent == {made.plan.example.event(0): 4}
    # four steps of N(0, (1.1 * 0.7)^2) / 64 at learning rate 0.2: the measured spread over all parameters
    expected = 0.2 * 1.1 * 0.7 / 64 * 2
    assert float(result.std()) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_nan_gradient_is_contained(federation, trainer):
    """A record whose gradient is NaN counts as zero: the client's update is that of its other records."""
    made = federation("algorithm.local.steps=2", "privacy.example.sampling_rate=1.0", text=SMALL + EXAMPLE_PRIVACY)
    poisoned = federation("algorithm.local.steps=2", "privacy.example.sampling_rate=1.0", text=SMALL + EXAMPLE_PRIVACY)
    record = int(made.population.records(0)[0])
    features = made.task.features.clone()
    features[record] = float("nan")
    object.__setattr__(poisoned.task, "features", features)
    result, _ = updates(poisoned, trainer, [0])
    assert torch.isfinite(result).all()
    clean, _ = updates(made, trainer, [0])
    # one of n records less moves each step by at most lr * clip / batch_size
    assert float((result - clean).norm()) <= 2 * 0.2 * 0.7 / 64 * 1.5


def test_large_batches_in_slices_give_the_same(federation, monkeypatch):
    made = federation("privacy.example.sampling_rate=0.9", "algorithm.local.steps=2", text=SMALL + EXAMPLE_PRIVACY)
    whole, _ = updates(made, "vectorised")
    monkeypatch.setattr("fedsim.training.vectorised.SLICE_BYTES", 1)
    sliced, _ = updates(made, "vectorised")
    torch.testing.assert_close(whole, sliced, rtol=1e-5, atol=1e-6)
    reference, _ = updates(made, "opacus")
    monkeypatch.setattr("fedsim.training.opacus.PIECE", 7)
    pieces, _ = updates(made, "opacus")
    torch.testing.assert_close(reference, pieces, rtol=1e-5, atol=1e-6)


def test_auto_falls_back_with_a_reason(federation):
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            out = self.layer(x.flatten(1))
            return out if float(out.detach().sum()) > 0 else -out

    from fedsim.training import pick_trainer

    made = federation()
    name, _, reason = pick_trainer(made.scenario, made.module, made.task)
    assert name == "native" if why_not(made, "native") is None else name == "vectorised" and "not native" in reason
    adam = federation(OPTIMIZERS["adam"])
    name, _, reason = pick_trainer(adam.scenario, adam.module, adam.task)
    assert name == "vectorised"
    assert "not native: it knows SGD" in reason
    torch_state = torch.get_rng_state()
    name, _, reason = pick_trainer(made.scenario, Branching(), made.task)
    torch.set_rng_state(torch_state)
    assert name == "opacus"
    assert "vmap" in reason
