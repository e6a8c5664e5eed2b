"""Aggregation and server optimizers against Flower's own, on random updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedAvgM

from fedsim.aggregation import WeightedSum
from fedsim.aggregation.server_step import ServerStep
from fedsim.algorithms import ServerOptimizer
from fedsim.messages import ensure_identity

SIZE, CLIENTS, ROUNDS = 50, 7, 5

# Flower's adaptive optimizers have no bias correction and start their second moment at tau^2 (Reddi et al. 2021);
# torch's Adam has both otherwise, so Adam is compared with a written-out loop below and FedAvg(M) with Flower.
SGD = {
    "fedavg": (FedAvg, {}, ServerOptimizer()),
    "fedavgm": (
        FedAvgM,
        {"server_learning_rate": 0.5, "server_momentum": 0.9},
        ServerOptimizer(learning_rate=0.5, options={"momentum": 0.9}),
    ),
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
    if name == "fedavgm":
        strategy.current_arrays = ArrayRecord([start])
    for round_ in range(1, ROUNDS + 1):
        updates, weights = rng.normal(size=(CLIENTS, SIZE)), rng.integers(1, 100, CLIENTS)
        theirs = flower_round(strategy, round_, theirs, updates, weights)
        if name == "fedavgm":
            strategy.current_arrays = ArrayRecord([theirs])
        total = WeightedSum(SIZE, torch.device("cpu"))
        for part in np.array_split(np.arange(CLIENTS), 3):
            total.add(torch.from_numpy(updates[part]).float(), torch.from_numpy(weights[part]).double())
        server.step(total.total / total.weight)
        np.testing.assert_allclose(server.params.numpy(), theirs, rtol=2e-5, atol=2e-6)


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


def test_a_restored_server_goes_on_bit_for_bit():
    rng = np.random.default_rng(4)
    settings = ServerOptimizer(optimizer="adam", learning_rate=0.1)
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
