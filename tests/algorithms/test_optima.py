"""Where algorithms end on clients whose losses are parabolas with different minima: known points, and Flower's step."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import QFedAvg as FlowersQFedAvg

from fedsim.algorithms import ALGORITHMS, FedAvg, Given, LocalTraining
from fedsim.algorithms.effective import effective_steps
from fedsim.algorithms.fednova import FedNova
from fedsim.algorithms.qfedavg import QFedAvg
from fedsim.messages import ensure_identity
from fedsim.params import Layout
from fedsim.training.trainer import Trained

SIZE, CLIENTS = 4, 6


@dataclass
class Parabolas:
    """A trainer whose client i has the loss 1/2 (w - b_i) A_i (w - b_i), with its exact gradient in every step."""

    curvatures: torch.Tensor
    minima: torch.Tensor

    @classmethod
    def drawn(cls):
        rng = torch.Generator().manual_seed(1)
        roots = torch.randn(CLIENTS, SIZE, SIZE, generator=rng, dtype=torch.float64)
        curvatures = roots @ roots.mT / SIZE + 0.2 * torch.eye(SIZE).double()
        return cls(curvatures, 3 * torch.randn(CLIENTS, SIZE, generator=rng, dtype=torch.float64))

    @property
    def optimum(self):
        """Where the mean loss is least."""
        slopes = torch.einsum("cij,cj->i", self.curvatures, self.minima)
        return torch.linalg.solve(self.curvatures.sum(0), slopes)

    def train(self, local, problem, work):
        curvatures, minima = self.curvatures[work.clients], self.minima[work.clients]
        start = problem.starts(len(work.clients))
        weights = start.clone()
        for step in range(int(work.steps.max())):
            gradient = problem.added(torch.einsum("cij,cj->ci", curvatures, weights - minima), weights)
            active = torch.from_numpy(work.steps > step)[:, None]
            weights = torch.where(active, weights - local.learning_rate * gradient, weights)
        return Trained(weights - start)


def distance(algorithm, trainer, steps, cohort=CLIENTS, rounds=500):
    """How far from the joint optimum the model ends, of how far it began."""
    layout, rng = Layout(("w",), ((SIZE,),)), np.random.default_rng(2)
    params, memory = torch.zeros(SIZE).double(), torch.zeros(algorithm.memory_size(layout)).double()
    state = torch.zeros(CLIENTS, algorithm.state_size(layout)).double()
    for _ in range(rounds):
        clients = np.sort(rng.permutation(CLIENTS)[:cohort])
        given = Given(params, memory, state[clients], params, layout)
        trained = algorithm.train(trainer, given, SimpleNamespace(clients=clients, steps=steps[clients]))
        if trained.state is not None:
            state[clients] = trained.state
        update, memory = algorithm.conclude(trained.updates.mean(0), params, memory, cohort / CLIENTS)
        params = params + update
    return float((params - trainer.optimum).norm() / trainer.optimum.norm())


@pytest.mark.parametrize("cohort", [CLIENTS, 2])
@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_they_end_at_the_joint_optimum_where_fedavg_does_not(name, cohort):
    """With 3 to 8 local steps of different clients, all of whom take part or two at a time."""
    trainer, steps = Parabolas.drawn(), np.array([3, 4, 5, 6, 7, 8])
    local = LocalTraining(learning_rate=0.1)
    options = {"alpha": 0.5} if name == "feddyn" else {}
    assert distance(ALGORITHMS[name](local=local, **options), trainer, steps, cohort) < 1e-4
    assert distance(FedAvg(local=local), trainer, steps, cohort) > 1e-2


def test_fednova_takes_uneven_clients_to_the_optimum_of_their_mean():
    """At a small rate nothing but the numbers of steps leads FedAvg astray."""
    trainer, steps = Parabolas.drawn(), np.array([1, 2, 4, 8, 16, 32])
    local = LocalTraining(learning_rate=3e-3)
    astray = distance(FedAvg(local=local), trainer, steps)
    assert astray > 0.1
    assert distance(FedNova(local=local), trainer, steps) < 0.1 * astray


@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_fednova_with_equally_many_steps_is_fedavg_or_fedprox(mu):
    trainer, work = Parabolas.drawn(), SimpleNamespace(clients=np.arange(CLIENTS), steps=np.full(CLIENTS, 5))
    layout, start = Layout(("w",), ((SIZE,),)), torch.ones(SIZE).double()
    nothing = torch.zeros(0)
    given = Given(start, nothing, nothing, start, layout)
    found = FedNova(mu=mu).train(trainer, given, work).updates.mean(0)
    expected = ALGORITHMS["fedprox"](mu=mu).train(trainer, given, work).updates.mean(0)
    torch.testing.assert_close(FedNova(mu=mu).conclude(found, start, nothing, 1.0)[0], expected)


def test_effective_steps_are_the_paper_s():
    """Wang et al. 2020, section 4.2, for plain, proximal and momentum SGD."""
    tau, eta, mu, rho = np.array([0, 1, 2, 7, 40]), 0.2, 0.9, 0.8
    plain, momentum = (LocalTraining(learning_rate=eta, options=options) for options in ({}, {"momentum": rho}))
    np.testing.assert_allclose(effective_steps(plain, 0.0, tau), tau)
    np.testing.assert_allclose(effective_steps(plain, mu, tau), (1 - (1 - eta * mu) ** tau) / (eta * mu))
    expected = (tau - rho * (1 - rho**tau) / (1 - rho)) / (1 - rho)
    np.testing.assert_allclose(effective_steps(momentum, 0.0, tau), expected)


@pytest.mark.parametrize(("name", "value"), [("dampening", 0.4), ("nesterov", True), ("weight_decay", 0.3)])
def test_effective_steps_are_how_far_torch_s_sgd_goes(name, value):
    options = {"momentum": 0.7, name: value}
    weight = torch.zeros(1, dtype=torch.float64)
    optimizer = torch.optim.SGD([weight], lr=0.3, **(options | {"weight_decay": 0.0}))
    for _ in range(6):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    found = effective_steps(LocalTraining(learning_rate=0.3, options=options), 0.0, np.array([6]))
    assert float(found) == pytest.approx(-float(weight) / 0.3)


@pytest.mark.parametrize("q", [0.0, 0.1, 1.0, 3.0])
def test_a_round_of_qfedavg_is_flower_s(q):
    rng = np.random.default_rng(5)
    params, losses = rng.normal(size=SIZE), rng.uniform(0.1, 3, CLIENTS)
    updates = rng.normal(size=(CLIENTS, SIZE))
    trainer = SimpleNamespace(
        train=lambda local, problem, work: Trained(torch.from_numpy(updates)),
        mean_losses=lambda params, work: torch.from_numpy(losses),
    )
    algorithm, start, nothing = QFedAvg(q=q, local=LocalTraining(learning_rate=0.3)), torch.zeros(SIZE), torch.zeros(0)
    given = Given(start, nothing, nothing, start, Layout(("w",), ((SIZE,),)))
    reports = algorithm.train(trainer, given, None).updates
    update, _ = algorithm.conclude(reports.mean(0), start, nothing, 1.0)
    np.testing.assert_allclose(params + update.numpy(), flowers_round(params, updates, losses, q), rtol=1e-8)


def flowers_round(params, updates, losses, q):
    ensure_identity()
    strategy = FlowersQFedAvg(client_learning_rate=0.3, q=q)
    strategy.current_arrays = ArrayRecord([params])
    sent = Message(RecordDict(), dst_node_id=1, message_type="train")
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord([params + update]),
                    "metrics": MetricRecord({"num-examples": 1, "train_loss": loss}),
                }
            ),
            reply_to=sent,
        )
        for update, loss in zip(updates, losses, strict=True)
    ]
    return strategy.aggregate_train(1, replies)[0].to_numpy_ndarrays()[0]


def test_a_cohort_of_nobody_moves_nothing():
    """Sums of no reports are zero; the algorithms must make nothing of them but what they remember."""
    layout = Layout(
        ("first.weight", "norm.weight", "last.weight"), ((SIZE - 2,), (1,), (1,)), frozenset(["norm.weight"])
    )
    start = torch.ones(SIZE)
    for cls in ALGORITHMS.values():
        algorithm = cls()
        nothing = torch.zeros(algorithm.report_size(layout))
        update, memory = algorithm.conclude(nothing, start, torch.zeros(algorithm.memory_size(layout)), 0.0)
        assert (update == 0).all(), cls
        assert (memory == 0).all(), cls
