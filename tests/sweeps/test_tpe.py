"""TPE by Optuna: restartable, free of repetitions, and better than chance."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from fedsim.errors import BadInput
from fedsim.sweeps.search import random_values
from fedsim.sweeps.settings import load_sweep
from fedsim.sweeps.tpe import propose

SPACE = """
x = { low = 0.0, high = 1.0 }
y = { low = 1, high = 9 }
z = [{ a = 1 }, { a = 2 }]
w = { low = 1e-3, high = 1.0, log = true }
"""


def searched(sweep, score, restart_at=()):
    """All trials of a search, whose history is forgotten and read again at some batches."""
    pytest.importorskip("optuna")
    trials, scores = [], {}
    while batch := propose(sweep, trials, scores):
        if len(trials) in restart_at:
            assert propose(sweep, list(trials), dict(scores)) == batch
        trials += batch
        scores |= {trial.number: score(trial.values) for trial in batch}
    return trials, scores


def quadratic(values):
    return (-((values["x"] - 0.3) ** 2) - (values["y"] - 7) ** 2 / 64 - (values["z"]["a"] - 1),)


def test_the_same_history_gives_the_same_proposals(sweep_file):
    search = 'method = "tpe"\ntrials = 18\nobjective = "accuracy"\nbatch = 4'
    sweep = load_sweep(sweep_file(search, SPACE))
    first, _ = searched(sweep, quadratic, restart_at=(4, 12, 16))
    assert len(first) == 18
    assert [trial.number for trial in first] == list(range(18))
    assert searched(sweep, quadratic)[0] == first
    other = load_sweep(sweep_file(search + "\nseed = 1", SPACE))
    assert searched(other, quadratic)[0] != first


def test_it_finds_better_settings_than_chance(sweep_file):
    sweep = load_sweep(sweep_file('method = "tpe"\ntrials = 40\nobjective = "accuracy"', SPACE))
    trials, scores = searched(sweep, quadratic)
    late = np.mean([scores[trial.number][0] for trial in trials[20:]])
    chance = np.mean([quadratic(random_values(sweep, number))[0] for number in range(400)])
    assert late > chance / 2  # scores are below zero: less than half of what chance loses


def test_two_objectives_failures_and_infinities_are_told(sweep_file):
    search = 'method = "tpe"\ntrials = 20\nobjective = ["accuracy", "epsilon"]'
    sweep = load_sweep(
        sweep_file(search, "privacy.example.target_epsilon = [1.0, 2.0, inf]\nx = { low = 0.0, high = 1.0 }")
    )

    def score(values):
        epsilon = float(values["privacy.example.target_epsilon"])
        return None if values["x"] < 0.2 else (values["x"], epsilon)

    trials, _ = searched(sweep, score)
    assert len(trials) == 20
    assert {trial.values["privacy.example.target_epsilon"] for trial in trials} == {1.0, 2.0, "inf"}


def test_nothing_is_proposed_twice_and_a_small_space_ends(sweep_file):
    search = 'method = "tpe"\ntrials = 30\nobjective = "accuracy"'
    sweep = load_sweep(sweep_file(search, "x = [1, 2, 3]\ny = { low = 0.0, high = 1.0, step = 0.5 }"))
    trials, _ = searched(sweep, lambda values: (float(values["x"]),))
    assert len({trial.key for trial in trials}) == len(trials) == 9


def test_without_optuna_one_line_says_how_to_get_it(sweep_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    sweep = load_sweep(sweep_file('method = "tpe"\ntrials = 3\nobjective = "accuracy"', "x = [1]"))
    with pytest.raises(BadInput, match=r'pip install "fedsim\[sweep\]"'):
        propose(sweep, [], {})
