"""What the terminal shows of a run, whatever its task measures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.progress import Progress

import fedsim
from fedsim.console import Display, print_result
from fedsim.federation import build_federation
from fedsim.loading import parse_scenario
from fedsim.result import Result
from fedsim.tasks import Regression
from tests.conftest import SMALL
from tests.tasks.made import Made

SUMMARY = {
    "scenario": "x",
    "rounds": 3,
    "rounds_planned": 4,
    "privacy": [{"unit": "none"}],
    "seconds": {"total": 1.0, "setup": 0.5},
}


def test_progress_shows_the_tasks_metrics_loss_last():
    scenario = replace(parse_scenario(SMALL, "x", ["population.partition={kind='iid'}"]), data=Made(kind="numbers"))
    federation = build_federation(scenario)
    assert federation.task.objective == Regression()
    with Progress(disable=True) as progress:
        display = Display(progress, 4)
        display.on_ready(federation)
        display.on_round({"round": 1, "loss": 0.5, "mse": 0.5, "mae": 0.25, "r2": 0.75, "epsilon_client": 1.5})
        display.on_round({"round": 2, "loss": None, "mse": None, "mae": None, "r2": None})
        (task,) = progress.tasks
    assert task.completed == 2
    assert task.fields["status"] == "mse 0.5000  mae 0.2500  r2 0.7500  loss 0.5000"


@pytest.mark.parametrize(
    ("metrics", "main", "lines"),
    [
        ({"loss": 0.25, "accuracy": 0.5}, "accuracy", ["accuracy 0.5000, loss 0.2500"]),
        (
            {"loss": 0.25, "accuracy": 0.5, "macro_f1": None},
            "accuracy",
            ["accuracy 0.5000, loss 0.2500", "also: macro_f1 not defined"],
        ),
        (
            {"loss": 0.0, "mse": 0.0, "psnr": "inf"},
            "psnr",
            ["psnr inf, loss 0.0000", "also: mse 0.0000"],
        ),
        (
            {"loss": 3454785578366692617529327616.0, "mse": 99999.5, "r2": -123456.0},
            "r2",
            ["r2 -123456, loss 3.45479e+27", "also: mse 99999.5000"],
        ),
    ],
)
def test_the_result_names_the_main_metric_first_and_what_is_not_defined(capsys, metrics, main, lines):
    print_result(Result(Path("run"), SUMMARY | {"metrics": metrics, "main_metric": main}))
    first, *others = lines
    shown = capsys.readouterr().out.splitlines()
    assert shown[: len(lines)] == [f"x: 3 of 4 rounds, {first}", *others]
    assert shown[len(lines)].startswith("privacy: none")


def test_a_run_of_constant_numbers_has_no_r2_and_still_a_report(tmp_path, capsys):
    class Constant(Made):
        def load(self, seed):
            data = super().load(seed)
            for part in (data.train, data.test):
                part.labels[:] = 0.1
            return data

    scenario = parse_scenario(SMALL, "x", ["population.partition={kind='iid'}", "rounds=1"])
    result = fedsim.run(replace(scenario, data=Constant(kind="numbers")), tmp_path / "run")
    assert result.metrics["r2"] is None
    assert "NaN" not in (tmp_path / "run" / "rounds.jsonl").read_text()
    print_result(result)
    assert "r2 not defined" in capsys.readouterr().out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "not defined" in page
    assert "R² over the rounds" not in page
