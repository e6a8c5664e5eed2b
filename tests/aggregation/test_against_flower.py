"""Aggregation and server optimizers against Flower's own, on random updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi

from fedsim.aggregation import WeightedSum
from fedsim.aggregation.server_step import ServerStep
from fedsim.algorithms import ServerOptimizer
from fedsim.messages import ensure_identity
from fedsim.server_optimizers import SERVER_OPTIMIZERS

SIZE, CLIENTS, ROUNDS = 50, 7, 5

SGD = {
    "fedavg": (FedAvg, {}, ServerOptimizer()),
    "fedavgm": (
        FedAvgM,
        {"server_learning_rate": 0.5, "server_momentum": 0.9},
        ServerOptimizer(learning_rate=0.5, options={"momentum": 0.9}),
    ),
    "fedavgm by name": (FedAvgM, {"server_momentum": 0.9}, ServerOptimizer(optimizer="fedavgm")),
}

# Flower starts the second moment at 0, where the paper has at least tau^2, and corrects FedAdam's bias (by one round
# more than there were), which the paper does not: with Flower's v made to start at tau^2 the others agree.
ADAPTIVE = {
    "fedadagrad": (FedAdagrad, {"eta": 0.1}, {}),
    "fedyogi": (FedYogi, {"eta": 0.01}, {}),
    "fedyogi with options": (FedYogi, {"eta": 0.01, "tau": 0.1, "beta_1": 0.5}, {"tau": 0.1, "betas": [0.5, 0.99]}),
}


def flower_round(strategy, round_, params, updates, weights):
    ensure_identity()
    sent = Message(RecordDict(), dst_node_id=1, message_type="train")
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord([(params + update).astype(np.float32)]),
                    "metrics": MetricRecord({"num-examples": int(weight)}),
                }
            ),
            reply_to=sent,
        )
        for update, weight in zip(updates, weights, strict=True)
    ]
    arrays, _ = strategy.aggregate_train(round_, replies)
    return arrays.to_numpy_ndarrays()[0]


@pytest.mark.parametrize("name", SGD)
def test_weighted_sum_and_server_step_are_flower_s(name):
    cls, options, ours = SGD[name]
    rng = np.random.default_rng(1)
    start = rng.normal(size=SIZE).astype(np.float32)
    strategy, server, theirs = cls(**options), ServerStep(ours, torch.from_numpy(start)), start
    if cls is FedAvgM:
        strategy.current_arrays = ArrayRecord([start])
    for round_ in range(1, ROUNDS + 1):
        updates, weights = rng.normal(size=(CLIENTS, SIZE)), rng.integers(1, 100, CLIENTS)
        theirs = flower_round(strategy, round_, theirs, updates, weights)
        if cls is FedAvgM:
            strategy.current_arrays = ArrayRecord([theirs])
        total = WeightedSum(SIZE, torch.device("cpu"))
        for part in np.array_split(np.arange(CLIENTS), 3):
            total.add(torch.from_numpy(updates[part]).float(), torch.from_numpy(weights[part]).double())
        server.step(total.total / total.weight)
        np.testing.assert_allclose(server.params.numpy(), theirs, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("case", ADAPTIVE)
def test_adaptive_server_optimizers_are_flower_s(case):
    cls, theirs, options = ADAPTIVE[case]
    rng = np.random.default_rng(5)
    params = rng.normal(size=SIZE).astype(np.float32)
    strategy = cls(**theirs)
    strategy.v_t = {"0": np.full(SIZE, strategy.tau**2, np.float32)}
    server = ServerStep(ServerOptimizer(optimizer=case.split()[0], options=options), torch.from_numpy(params))
    for round_ in range(1, 4 * ROUNDS + 1):
        update = rng.normal(size=SIZE).astype(np.float32) * 0.1
        strategy.current_arrays = {"0": params}
        params = flower_round(strategy, round_, params, [update], [1])
        server.step(torch.from_numpy(update))
        np.testing.assert_allclose(server.params.numpy(), params, rtol=1e-4, atol=2e-6)


def test_fedadam_is_the_paper_s_algorithm_and_flower_s_but_for_its_start_and_rate():
    """Flower's with v at tau^2 and its rate divided by the correction that it multiplies with."""
    rng = np.random.default_rng(6)
    start = rng.normal(size=SIZE).astype(np.float32)
    strategy, params, flower = FedAdam(eta=0.1), start.astype(np.float64), start
    strategy.v_t = {"0": np.full(SIZE, 1e-6, np.float32)}
    server = ServerStep(ServerOptimizer(optimizer="fedadam"), torch.from_numpy(start))
    first, second = np.zeros(SIZE), np.full(SIZE, 1e-6)
    for round_ in range(1, 4 * ROUNDS + 1):
        update = rng.normal(size=SIZE).astype(np.float32) * 0.1
        server.step(torch.from_numpy(update))
        first, second = 0.9 * first + 0.1 * update, 0.99 * second + 0.01 * update.astype(np.float64) ** 2
        params = params + 0.1 * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(server.params.numpy(), params, rtol=1e-4, atol=2e-6)
        strategy.eta = 0.1 * (1 - 0.9 ** (round_ + 1)) / np.sqrt(1 - 0.99 ** (round_ + 1))
        strategy.current_arrays = {"0": flower}
        flower = flower_round(strategy, round_, flower, [update], [1])
        np.testing.assert_allclose(server.params.numpy(), flower, rtol=1e-4, atol=2e-5)


def test_yogi_is_the_written_out_loop():
    rng = np.random.default_rng(7)
    params = rng.normal(size=SIZE).astype(np.float32)
    server = ServerStep(ServerOptimizer(optimizer="yogi"), torch.from_numpy(params))
    first, second, params = np.zeros(SIZE), np.full(SIZE, 1e-6), params.astype(np.float64)
    for _ in range(20):
        update = rng.normal(size=SIZE).astype(np.float32)
        server.step(torch.from_numpy(update))
        square = update.astype(np.float64) ** 2
        first, second = 0.9 * first + 0.1 * update, second - 0.001 * square * np.sign(second - square)
        params = params + 0.01 * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(server.params.numpy(), params, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "rate"),
    [("sgd", 1.0), ("fedavgm", 1.0), ("fedadam", 0.1), ("fedyogi", 0.01), ("fedadagrad", 0.1), ("adam", 1e-3)],
)
def test_the_learning_rate_left_out_is_the_optimizer_s_own(name, rate):
    assert ServerOptimizer(optimizer=name).learning_rate == rate
    assert ServerOptimizer(optimizer=name, learning_rate=0.25).learning_rate == 0.25


def test_server_adam_is_the_written_out_loop():
    rng = np.random.default_rng(2)
    params = rng.normal(size=SIZE)
    server = ServerStep(
        ServerOptimizer(optimizer="adam", learning_rate=0.1, options={"betas": [0.8, 0.9], "eps": 1e-3}),
        torch.from_numpy(params).float(),
    )
    first, second = np.zeros(SIZE), np.zeros(SIZE)
    for step in range(1, ROUNDS + 1):
        update = rng.normal(size=SIZE)
        server.step(torch.from_numpy(update))
        first, second = 0.8 * first - 0.2 * update, 0.9 * second + 0.1 * update**2
        params = params - 0.1 * (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.9**step)) + 1e-3)
        np.testing.assert_allclose(server.params.numpy(), params, rtol=1e-4, atol=1e-5)


def test_the_sum_does_not_depend_on_blocks_or_order():
    rng = np.random.default_rng(3)
    updates, weights = torch.from_numpy(rng.normal(size=(20, SIZE))).float(), torch.from_numpy(rng.random(20))
    whole = WeightedSum(SIZE, torch.device("cpu"))
    whole.add(updates, weights)
    for order in (np.arange(20)[::-1].copy(), rng.permutation(20)):
        parts = WeightedSum(SIZE, torch.device("cpu"))
        for chunk in np.array_split(order, 6):
            parts.add(updates[chunk], weights[chunk])
        torch.testing.assert_close(parts.total, whole.total, rtol=1e-13, atol=1e-13)
        assert parts.weight == pytest.approx(whole.weight, rel=1e-14)


@pytest.mark.parametrize("name", ["adam", *SERVER_OPTIMIZERS])
def test_a_restored_server_goes_on_bit_for_bit(name):
    rng = np.random.default_rng(4)
    settings = ServerOptimizer(optimizer=name, learning_rate=0.1)
    start = torch.from_numpy(rng.normal(size=SIZE)).float()
    updates = torch.from_numpy(rng.normal(size=(6, SIZE)))
    straight = ServerStep(settings, start)
    for update in updates[:3]:
        straight.step(update)
    resumed = ServerStep(settings, start)
    resumed.restore({name: tensor.clone() for name, tensor in straight.state().items()})
    for update in updates[3:]:
        straight.step(update)
        resumed.step(update)
    assert torch.equal(straight.params, resumed.params)
