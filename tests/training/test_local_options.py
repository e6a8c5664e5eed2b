"""Penalties and gradient scaling of local training, against plain torch loops."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from fedsim.params import bind_vector, vector_of
from fedsim.seeding import Stream
from fedsim.training import TRAINERS
from tests.conftest import EXAMPLE_PRIVACY, SMALL, batches_of, local_problem, trainer_of, why_not, work_of

OPTIONS = {
    "l1": {"l1": 0.05},
    "l2": {"l2": 0.3},
    "scaled": {"max_grad_norm": 1.0},
    "all": {"l1": 0.02, "l2": 0.2, "max_grad_norm": 0.8},
}
OPTIMIZERS = {"plain": "{}", "momentum": "{momentum=0.9, weight_decay=0.01}"}


def overrides(options):
    return [f"algorithm.local.{name}={value}" for name, value in options.items()]


def train(made, trainer):
    work = work_of(made)
    updates = trainer_of(made, trainer).train(*local_problem(made.scenario.algorithm, made.start), work).updates
    return updates[np.argsort(work.clients)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_plain_training_is_the_loop_with_penalties_in_the_loss(federation, trainer, options, optimizer):
    chosen = OPTIONS[options]
    more = [f"algorithm.local.options={OPTIMIZERS[optimizer]}", "algorithm.local.epochs=2"]
    made = federation(*overrides(chosen), *more)
    updates, settings = train(made, trainer), made.scenario.algorithm.local.options
    scaled = []
    for client in range(3):
        module = copy.deepcopy(made.module).train()
        bind_vector(module, made.start.clone())
        optimizer_ = torch.optim.SGD(module.parameters(), lr=0.2, **settings)
        for batch in batches_of(work_of(made), client):
            optimizer_.zero_grad()
            nn.functional.cross_entropy(module(made.task.features[batch]), made.task.labels[batch]).backward()
            if "max_grad_norm" in chosen:
                norm = nn.utils.clip_grad_norm_(module.parameters(), chosen["max_grad_norm"])
                scaled.append(bool(norm > chosen["max_grad_norm"]))
            weights = vector_of(module).requires_grad_()
            penalty = chosen.get("l1", 0) * weights.abs().sum() + chosen.get("l2", 0) / 2 * weights.square().sum()
            (added,) = torch.autograd.grad(penalty, weights)
            sizes = [p.numel() for p in module.parameters()]
            for p, part in zip(module.parameters(), added.split(sizes), strict=True):
                p.grad += part.view_as(p)
            optimizer_.step()
        torch.testing.assert_close(updates[client], vector_of(module) - made.start, rtol=1e-4, atol=1e-5)
    assert not scaled or set(scaled) == {True, False}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_private_penalties_come_after_the_noise(federation, trainer):
    """Their gradient is neither clipped nor scaled by the batch: the update is that of one step, less rate times it."""
    text = SMALL + EXAMPLE_PRIVACY
    penalised = federation("algorithm.local.l2=0.5", "algorithm.local.steps=1", text=text)
    plain = federation("algorithm.local.steps=1", text=text)
    gap = train(penalised, trainer) - train(plain, trainer)
    torch.testing.assert_close(gap, (-0.2 * 0.5 * plain.start).expand_as(gap), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("trainer", ["opacus", "vectorised"])
def test_private_training_with_both_penalties_is_the_one_example_at_a_time_loop(federation, trainer):
    made = federation("algorithm.local.l1=0.05", "algorithm.local.l2=0.3", text=SMALL + EXAMPLE_PRIVACY)
    updates, work = train(made, trainer), work_of(made)
    for client in range(3):
        module = copy.deepcopy(made.module).train()
        weights = made.start.clone()
        for step, batch in enumerate(batches_of(work, client)):
            bind_vector(module, weights)
            total = torch.zeros_like(weights)
            for record in batch:
                loss = nn.functional.cross_entropy(module(made.task.features[[record]]), made.task.labels[[record]])
                row = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))])
                total += row * min(1.0, 0.7 / float(row.norm()))
            noise = work.keystream.normals(Stream.NOISE, torch.tensor([client]), step, len(weights))[0].float()
            gradient = (total + 1.1 * 0.7 * noise) / 64
            weights = weights - 0.2 * (gradient + 0.05 * weights.sign() + 0.3 * weights)
        torch.testing.assert_close(updates[client], weights - made.start, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("option", "obstacle"), [("l1=0.1", "l1"), ("max_grad_norm=1.0", "max_grad_norm")])
def test_the_native_trainer_says_what_it_does_not_know(federation, option, obstacle):
    made = federation(f"algorithm.local.{option}")
    assert f"algorithm.local.{obstacle}" in (why_not(made, "native") or "")
    assert made.trainer_name == "vectorised"


def test_scaling_has_no_place_beside_clipping_of_records():
    with pytest.raises(BadInput, match=r"algorithm\.local\.max_grad_norm = 1\.0: with \[privacy\.example\]"):
        parse_scenario(SMALL + EXAMPLE_PRIVACY, "x", ["algorithm.local.max_grad_norm=1.0"])


@pytest.mark.parametrize("option", ["l1=-0.1", "l2=inf", "max_grad_norm=0.0"])
def test_impossible_values_are_refused(option):
    with pytest.raises(BadInput, match=f"algorithm.local.{option.partition('=')[0]}"):
        parse_scenario(SMALL, "x", [f"algorithm.local.{option}"])
