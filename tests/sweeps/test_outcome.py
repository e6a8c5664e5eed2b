"""What a sweep comes to: intervals against SciPy, the Pareto set against its definition, the baselines."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress, TextColumn
from scipy.stats import ttest_1samp

from fedsim.sweeps.console import Bar, print_sweep
from fedsim.sweeps.objectives import directions, means, merit, value_of
from fedsim.sweeps.outcome import best, interval, non_private, trivial
from fedsim.sweeps.running import SweepResult
from fedsim.sweeps.trials import Task, Trial


def row(trial, accuracy, epsilon=None, seed=0, **other):
    line = {"trial": trial, "seed": seed, "status": "completed", "run": f"runs/t{trial:04d}-s{seed}"}
    spent = {"example": epsilon, "client": None}
    return line | {"metrics": {"accuracy": accuracy}, "main_metric": "accuracy", "epsilon": spent} | other


def test_intervals_are_those_of_scipy():
    values = [0.71, 0.78, 0.69, 0.75]
    ours, theirs = interval(values), ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert ours["mean"] == pytest.approx(np.mean(values))
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high))
    assert interval([0.5]) == {"mean": 0.5, "low": None, "high": None, "n": 1}
    assert interval([math.inf, 1.0])["low"] is None


def test_the_pareto_set_is_what_no_other_setting_beats():
    rng = np.random.default_rng(0)
    points = {n: (float(a), float(e)) for n, (a, e) in enumerate(rng.integers(0, 6, (40, 2)))}
    rows = {n: [row(n, accuracy, epsilon)] for n, (accuracy, epsilon) in points.items()}
    expected = [
        n
        for n, (accuracy, epsilon) in points.items()
        if not any(a >= accuracy and e <= epsilon and (a, e) != (accuracy, epsilon) for a, e in points.values())
    ]
    assert best(rows, ["accuracy", "epsilon"]) == expected
    assert 0 < len(expected) < len(points)


def test_the_best_setting_is_that_of_the_best_mean_among_those_that_ran_whole():
    rows = {
        0: [row(0, 0.5), row(0, 0.7, seed=1)],
        1: [row(1, 0.9), row(1, None, seed=1, status="failed", metrics={})],
        2: [row(2, 0.8, status="pruned"), row(2, 0.8, seed=1, status="pruned")],
        3: [row(3, 0.6), row(3, 0.6, seed=1)],
        4: [row(4, 0.1), row(4, 0.2, seed=1)],
    }
    assert best(rows, ["accuracy"]) == [0]
    assert best({1: rows[1]}, ["accuracy"]) == []
    diverged = [row(5, 0.99), row(5, None, seed=1)]  # completed, but the metric is not a number
    assert best(rows | {5: diverged}, ["accuracy"]) == [0]


def test_a_mean_of_those_that_survived_is_no_score():
    good = [row(0, 0.5), row(0, 0.7, seed=1)]
    assert means(good, ["accuracy"]) == (pytest.approx(0.6),)
    assert means([*good, row(0, None, seed=2, status="failed", metrics={})], ["accuracy"]) is None
    assert means([*good, row(0, None, seed=2)], ["accuracy"]) is None
    assert means([*good, row(0, math.nan, seed=2)], ["accuracy"]) is None
    assert means([], ["accuracy"]) is None


def test_the_non_private_baseline_is_the_best_setting_without_any_guarantee():
    rows = {0: [row(0, 0.9, 4.0)], 1: [row(1, 0.7, "inf")], 2: [row(2, 0.8, "inf")], 3: [row(3, 0.95, 1.0)]}
    assert non_private(rows, "accuracy") == 2
    assert non_private({0: rows[0]}, "accuracy") is None


def test_the_trivial_baseline_counts_the_most_frequent_class_once_a_seed(tmp_path):
    rows = [row(0, 0.5), row(1, 0.5), row(0, 0.5, seed=1)]
    for line, counts in zip(rows, ([3, 1], [3, 1], [5, 5]), strict=True):
        folder = tmp_path / line["run"]
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"per_class": [{"records": count} for count in counts]}))
    assert trivial(rows, "accuracy", tmp_path)["value"] == pytest.approx((0.75 + 0.5) / 2)
    assert trivial(rows, "auroc", tmp_path)["value"] == 0.5
    assert trivial(rows, "perplexity", tmp_path) is None
    assert trivial([row(9, 0.5)], "accuracy", tmp_path) is None


@pytest.mark.parametrize(
    ("objective", "better"),
    [
        *(("accuracy", True), ("loss", False), ("accuracy_worst", True), ("auroc_unseen", True), ("bytes", False)),
        *(("balanced_accuracy", True), ("accuracy_personal_p10", True), ("mae_personal_p90", False)),
    ],
)
def test_of_scores_more_is_better_of_costs_less(objective, better):
    assert directions([objective]) == ["maximize" if better else "minimize"]
    assert (merit(2.0, objective) > merit(1.0, objective)) is better


def test_epsilon_is_the_largest_of_the_units_and_infinite_without_any():
    line = row(0, 0.5) | {"epsilon": {"example": 2.0, "client": 3.0}, "bytes_up": 3, "bytes_down": 4}
    assert value_of(line, "epsilon") == 3.0
    assert value_of(line, "epsilon_example") == 2.0
    assert value_of(line, "bytes") == 7
    assert value_of(line | {"epsilon": {"example": None, "client": None}}, "epsilon") == math.inf
    assert value_of(line | {"epsilon": {"example": 2.0, "client": "inf"}}, "epsilon") == math.inf


def test_a_mean_of_fewer_runs_says_of_how_many(tmp_path, capsys):
    settings = [
        {"trial": trial, "values": {}, "status": status, "objectives": {"accuracy": interval([0.5] * number)}}
        for trial, status, number in ((0, {"completed": 2}, 2), (1, {"completed": 1, "failed": 2}, 1))
    ]
    summary = {"name": "s", "counts": {}, "seeds": [0, 1], "settings": settings, "best": [0]}
    summary |= {"objectives": ["accuracy"], "baselines": {"trivial": None}}
    print_sweep(SweepResult(tmp_path, summary, []))
    lines = capsys.readouterr().out.splitlines()
    assert "accuracy 0.5000 ± 0.0000 " in lines[1]
    assert "accuracy 0.5000 (1 of 3 runs)" in lines[2]


def test_the_terminal_says_what_its_lines_mean(tmp_path, capsys):
    def setting(trial, mean, status):
        score = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 5}
        spent = {"mean": 2.0, "low": 1.99999, "high": 2.00001, "n": 5}
        objectives = {"accuracy": score, "epsilon": spent}
        return {"trial": trial, "values": {"rounds": trial}, "status": status, "objectives": objectives}

    cost = {"one_run": 2.0, "everything": 7.5, "delta": 1e-4, "runs_without_a_guarantee": 5}
    summary = {
        "name": "s",
        "counts": {"settings": 2},
        "seeds": [0, 1, 2, 3, 4],
        "objectives": ["accuracy"],
        "settings": [setting(0, 0.9, {"completed": 5}), setting(1, 0.1, {"completed": 1, "pruned": 4})],
        "best": [0],
        "baselines": {"trivial": {"metric": "accuracy", "value": 0.12}},
        "selection": "public",
        "cost_of_looking": {"example": cost, "client": {"error": "no ledger"}},
    }
    print_sweep(SweepResult(tmp_path, summary, []))
    assert capsys.readouterr().out.splitlines() == [
        "s: 2 settings (mean and 95 % t interval over 5 seeds)",
        "*    0  accuracy 0.9000 ± 0.1000, epsilon 2.0000  rounds = 0",
        "     1  accuracy 0.1000 ± 0.1000, epsilon 2.0000 [4 pruned] [no better than without learning]  rounds = 1",
        "* the best accuracy",
        "privacy, example level: one run spends at most epsilon 2, all together 7.5 (delta 0.0001; 5 runs without a "
        "guarantee left out; selection is declared public)",
        "privacy, client level, all runs together: no ledger",
        f"table: {tmp_path / 'table.json'}",
    ]


def test_the_progress_bar_counts_runs_and_shares_of_runs():
    out = io.StringIO()
    progress = Progress(TextColumn("{task.fields[runs]} {task.percentage:.0f} %"), console=Console(file=out))
    bar = Bar(progress)
    bar.on_kept([])
    bar.on_plan(4)
    bar.on_round(Task(Trial(0, {}), 0), 0.5)
    bar.on_row(row(1, 0.25))
    bar.on_row(row(2, 0.25, status="failed", main_metric=None))
    assert progress.tasks[0].completed == 2.5
    assert progress.tasks[0].fields["runs"] == "2/4 runs, 1 failed"
    bar.on_row(row(0, 0.25))
    assert progress.tasks[0].completed == 3
    assert progress.tasks[0].fields["status"] == "trial 0, seed 0: 0.2500"


def test_what_an_earlier_session_ended_is_counted_but_not_shown_as_the_latest():
    progress = Progress(TextColumn("{task.fields[runs]}"), console=Console(file=io.StringIO()))
    bar = Bar(progress)
    bar.on_kept([row(0, 0.25), row(1, None, status="failed", main_metric=None)])
    bar.on_plan(4)
    assert progress.tasks[0].fields == {"runs": "2/4 runs, 1 failed", "status": "setting up"}
