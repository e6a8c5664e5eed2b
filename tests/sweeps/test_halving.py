"""Successive halving by pure rules, against decisions made by hand and a slow obvious loop."""

from __future__ import annotations

import numpy as np

from fedsim.sweeps.halving import at_rung, rungs, survivors
from fedsim.sweeps.settings import Halving


def line(trial, seed, accuracy, status="interrupted", rounds=2):
    metrics = {} if accuracy is None else {"accuracy": accuracy}
    return {"trial": trial, "seed": seed, "status": status, "rounds": rounds, "metrics": metrics}


def test_rungs_are_powers_of_the_factor_below_the_rounds():
    assert rungs(Halving(first_rounds=2, factor=3), 54) == [2, 6, 18]
    assert rungs(Halving(first_rounds=2, factor=3), 55) == [2, 6, 18, 54]
    assert rungs(Halving(first_rounds=5), 5) == []


def test_the_best_third_by_the_mean_over_seeds_goes_on():
    rows = {
        0: [line(0, 0, 0.5), line(0, 1, 0.7)],  # mean 0.6
        1: [line(1, 0, 0.9), line(1, 1, 0.1)],  # 0.5
        2: [line(2, 0, 0.61), line(2, 1, 0.61)],  # 0.61: survives
        3: [line(3, 0, None, "failed"), line(3, 1, 0.65)],  # 0.65 of the seed that did not fail: that is luck
        4: [line(4, 0, None, "failed"), line(4, 1, None, "failed")],
        5: [line(5, 0, None), line(5, 1, 0.2)],
    }
    assert survivors(rows, "accuracy", 3) == [0, 2]
    assert survivors(rows, "accuracy", 100) == [2]
    assert survivors(rows, "accuracy", 1) == [0, 1, 2]
    assert survivors({4: rows[4]}, "accuracy", 3) == []


def test_of_a_loss_less_is_better_and_of_equals_the_first():
    rows = {n: [line(n, 0, 0.5) | {"metrics": {"loss": loss}}] for n, loss in enumerate([3.0, 1.0, 1.0, 2.0])}
    assert survivors(rows, "loss", 4) == [1]
    assert survivors(rows, "loss", 2) == [1, 2]


def test_survivors_agree_with_a_slow_obvious_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        settings, seeds, factor = rng.integers(1, 12), rng.integers(1, 4), int(rng.integers(2, 5))
        values = rng.integers(0, 5, (settings, seeds)) / 4
        rows = {n: [line(n, s, values[n, s]) for s in range(seeds)] for n in range(settings)}
        left, means = list(range(settings)), values.mean(1)
        while len(left) > max(1, settings // factor):
            worst = min(means[n] for n in left)
            left.remove(max(n for n in left if means[n] == worst))
        assert survivors(rows, "accuracy", factor) == left


def test_runs_that_ended_before_a_rung_are_compared_by_their_end():
    paused = [line(0, 0, 0.5, rounds=2), line(0, 0, 0.6, rounds=4), line(1, 0, 0.4, rounds=2)]
    final = [line(1, 0, 0.45, "early_stopped", rounds=3), line(2, 0, 0.1, "pruned"), line(0, 0, 0.9, "completed", 8)]
    lines = at_rung(paused, final, 4)
    assert {trial: rows[0]["metrics"]["accuracy"] for trial, rows in lines.items()} == {0: 0.6, 1: 0.45}
