"""How long each aggregator takes: ``python -m benchmarks.aggregation`` prints medians of five runs each."""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from fedsim.aggregation import AGGREGATORS, Aggregator
from fedsim.seeding import Stream, torch_generator

# With what each can stand of 100 updates; a fifth of them are hostile.
SETTINGS = {"krum": {"attackers": 20}, "multi_krum": {"attackers": 20}, "bulyan": {"attackers": 20}}


def main() -> None:
    """Print a table of seconds, one row for each aggregator."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--params", type=int, default=1_600_000)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    updates = _updates(arguments.clients, arguments.params)
    print(f"{arguments.clients} updates of {arguments.params} parameters, {torch.get_num_threads()} threads")
    print(f"{'aggregator':<18}{'median s':>10}{'least s':>10}")
    for name, cls in AGGREGATORS.items():
        seconds = [_seconds(cls(**SETTINGS.get(name, {})), updates) for _ in range(arguments.runs)]
        print(f"{name:<18}{statistics.median(seconds):>10.3f}{min(seconds):>10.3f}", flush=True)


def _updates(clients: int, params: int) -> torch.Tensor:
    """Random updates that have something in common, a fifth of them hostile ``[clients, params]``."""
    rng = torch_generator(0, Stream.INIT)
    updates = torch.randn(clients, params, generator=rng).add_(0.5).mul_(1e-3)
    updates[: clients // 5] *= -10
    return updates


def _seconds(aggregator: Aggregator, updates: torch.Tensor) -> float:
    weights, reference = torch.ones(len(updates), dtype=torch.float64), None
    if aggregator.compares_with is not None:
        reference = updates[-1].clone()
    began = time.perf_counter()
    aggregator.aggregate(updates, weights, reference)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
