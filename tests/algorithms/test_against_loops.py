"""Each algorithm against a loop over clients, batches and rounds that anyone can check, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim.federation import Federation, build_federation
from fedsim.params import bind_vector, vector_of
from fedsim.seeding import Stream, generator
from tests.conftest import SMALL, batches_of, work_of

ROUNDS = 3


@dataclass
class Case:
    """A federation of six uneven clients, four of which take part in a round, in float64."""

    made: Federation

    def __post_init__(self) -> None:
        self.module = copy.deepcopy(self.made.module).double()
        self.start = vector_of(self.made.module).double()
        self.zero = torch.zeros_like(self.start)

    def cohort(self, round_: int) -> list[int]:
        """Who takes part."""
        return self.made.plan.sampling.draw(6, round_, generator(3, Stream.COHORT, round_)).tolist()

    def batches(self, round_: int, client: int) -> list[np.ndarray]:
        """The records of a client's steps."""
        return batches_of(work_of(self.made, [client], round_), client)

    def records(self, client: int) -> np.ndarray:
        """All that a client holds."""
        return self.made.population.records(client)

    def rate(self, round_: int) -> float:
        """The learning rate of a round."""
        return self.made.scenario.algorithm.local.learning_rate_at(round_, ROUNDS, [])

    def loss(self, weights: torch.Tensor, records: np.ndarray) -> torch.Tensor:
        """The mean loss of some records."""
        bind_vector(self.module, weights)
        outputs = self.module(self.made.task.features[records].double())
        return torch.nn.functional.cross_entropy(outputs, self.made.task.labels[records])

    def gradient(self, weights: torch.Tensor, records: np.ndarray) -> torch.Tensor:
        """Its gradient."""
        loss = self.loss(weights, records)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(self.module.parameters()))])

    def sizes(self, clients: list[int]) -> torch.Tensor:
        """How many records some clients hold."""
        return torch.tensor([float(len(self.records(client))) for client in clients]).double()


def mean(rows, weights=None):
    weights = torch.ones(len(rows)).double() if weights is None else weights
    return (weights / weights.sum()) @ torch.stack(rows)


def fedsgd(case, settings):
    x = case.start
    for round_ in range(1, ROUNDS + 1):
        cohort = case.cohort(round_)
        x = x - case.rate(round_) * mean([case.gradient(x, case.records(i)) for i in cohort], case.sizes(cohort))
    return x


def scaffold(case, settings):
    beta = settings.local.options.get("momentum", 0.0)
    x, c, own = case.start, case.zero, [case.zero] * 6
    for round_ in range(1, ROUNDS + 1):
        moves, changes, rate = [], [], case.rate(round_)
        for i in case.cohort(round_):
            y, velocity, counted = x, case.zero, 0.0
            for batch in case.batches(round_, i):
                velocity = beta * velocity + case.gradient(y, batch) - own[i] + c
                y = y - rate * velocity
            for left in range(len(case.batches(round_, i))):
                counted += sum(beta**k for k in range(left + 1))
            fresh = own[i] - c + (x - y) / (rate * counted)
            moves.append(y - x)
            changes.append(fresh - own[i])
            own[i] = fresh
        x, c = x + settings.server.learning_rate * mean(moves), c + sum(changes) / 6
    return x


def feddyn(case, settings):
    x, h, own, alpha = case.start, case.zero, [case.zero] * 6, settings.alpha
    for round_ in range(1, ROUNDS + 1):
        ends, cohort = [], case.cohort(round_)
        for i in cohort:
            y = x
            for batch in case.batches(round_, i):
                y = y - case.rate(round_) * (case.gradient(y, batch) - own[i] + alpha * (y - x))
            own[i] = own[i] - alpha * (y - x)
            ends.append(y)
        h = h - alpha / 6 * sum(y - x for y in ends)
        x = mean(ends) - h / alpha
    return x


def fednova(case, settings):
    x, mu, rho = case.start, settings.mu, settings.local.options.get("momentum", 0.0)
    for round_ in range(1, ROUNDS + 1):
        normalised, taus, rate, cohort = [], [], case.rate(round_), case.cohort(round_)
        for i in cohort:
            y, velocity, batches = x, case.zero, case.batches(round_, i)
            for batch in batches:
                velocity = rho * velocity + case.gradient(y, batch) + mu * (y - x)
                y = y - rate * velocity
            tau, shrink = len(batches), 1 - rate * mu
            a = (
                sum((1 - rho ** (tau - k)) / (1 - rho) for k in range(tau))
                if rho
                else sum(shrink ** (tau - 1 - k) for k in range(tau))
            )
            normalised.append((x - y) / (rate * a))
            taus.append(a)
        p = case.sizes(cohort) / case.sizes(cohort).sum()
        x = x - float(p @ torch.tensor(taus).double()) * rate * mean(normalised, p)
    return x


def mimelite(case, settings):
    x, m, beta = case.start, case.zero, settings.momentum
    for round_ in range(1, ROUNDS + 1):
        ends, gradients, cohort = [], [], case.cohort(round_)
        for i in cohort:
            y = x
            for batch in case.batches(round_, i):
                y = y - case.rate(round_) * ((1 - beta) * case.gradient(y, batch) + beta * m)
            ends.append(y)
            gradients.append(case.gradient(x, case.records(i)))
        m = (1 - beta) * mean(gradients, case.sizes(cohort)) + beta * m
        x = mean(ends, case.sizes(cohort))
    return x


def qfedavg(case, settings):
    x, q = case.start, settings.q
    for round_ in range(1, ROUNDS + 1):
        deltas, bounds, lipschitz = [], [], 1 / case.rate(round_)
        for i in case.cohort(round_):
            y, loss = x, case.loss(x, case.records(i)).item()
            for batch in case.batches(round_, i):
                y = y - case.rate(round_) * case.gradient(y, batch)
            step = lipschitz * (x - y)
            deltas.append(loss**q * step)
            bounds.append(q * loss ** (q - 1) * float(step @ step) + lipschitz * loss**q)
        x = x - sum(deltas) / sum(bounds)
    return x


FALLING = 'algorithm.local.schedule={kind="exponential", factor=0.6}'
CASES = {
    "fedsgd": (fedsgd, [FALLING]),
    "scaffold": (scaffold, [FALLING, "algorithm.server.learning_rate=0.7"]),
    "scaffold, momentum": (scaffold, ["algorithm.local.options={momentum=0.8}"]),
    "scaffold, steps": (scaffold, ["algorithm.local.steps=4"]),
    "feddyn": (feddyn, [FALLING, "algorithm.alpha=0.3"]),
    "fednova": (fednova, []),
    "fednova, momentum": (fednova, ["algorithm.local.options={momentum=0.8}"]),
    "fednova, proximal": (fednova, [FALLING, "algorithm.mu=0.9"]),
    "mimelite": (mimelite, [FALLING, "algorithm.momentum=0.6"]),
    "qfedavg": (qfedavg, ["algorithm.q=2.0"]),
    "qfedavg, q below 1": (qfedavg, [FALLING, "algorithm.q=0.3"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_run_is_the_loop(name, tmp_path):
    loop, overrides = CASES[name]
    text = SMALL.replace('name = "fedavg"', f'name = "{name.partition(",")[0]}"')
    uneven = ["algorithm.local.batch_size=20", 'cohort.sampling={kind="fixed", size=4}', "data.test_fraction=0.8"]
    scenario = fedsim.parse_scenario(text, "small", [*uneven, f"rounds={ROUNDS}", *overrides])
    case = Case(build_federation(scenario))
    counts = {len(case.batches(1, client)) for client in range(6)}
    assert len(counts) > 1 or scenario.algorithm.local.steps or scenario.algorithm.one_step
    assert len({client for round_ in range(1, ROUNDS + 1) for client in case.cohort(round_)}) > 4
    result = fedsim.run(scenario, tmp_path / "run")
    end = loop(case, scenario.algorithm)
    assert float((end - case.start).abs().max()) > 1e-2
    bind_vector(case.module, end)
    expected = dict(case.module.named_parameters())
    for key, found in load_file(result.directory / "model.safetensors").items():
        torch.testing.assert_close(found.double(), expected[key].detach(), rtol=1e-4, atol=1e-5)
