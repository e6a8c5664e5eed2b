"""Results as objects for notebooks: their frames, figures and texts say what the record says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.console import as_lines, print_result
from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from fedsim.result import Result
from fedsim.sweeps.console import print_sweep
from fedsim.sweeps.outcome import outcome
from fedsim.sweeps.result import SweepResult
from fedsim.sweeps.settings import Search, Sweep
from tests.report.example_sweeps import EPSILONS, SEEDS, line, lines, write_sweep

BASE = "name = 'small'\nrounds = 6\n[population]\nclients = 20\n[cohort]\nsampling = { kind = 'poisson', rate = 0.3 }\n"
PRIVATE = BASE + "[privacy.client]\nclip_norm = 1.0\nnoise_multiplier = 1.5\ndelta = 1e-3\nbudget = 4.0\n"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.running.build_report", lambda path: path)
        return fedsim.run(parse_scenario(PRIVATE, "small"), tmp_path_factory.mktemp("notebook") / "run")


def test_a_run_as_a_frame_is_its_record(result):
    pandas = pytest.importorskip("pandas")
    lines = [json.loads(line) for line in (result.directory / "rounds.jsonl").read_text().splitlines()]
    frame = result.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    for name in ("round", "loss", "epsilon_client", "bytes_up"):
        assert frame[name].tolist() == [line[name] for line in lines]


def test_a_run_as_a_figure_and_as_text(result, capsys):
    figure = result.plot()
    accuracy = next(axes for axes in figure.axes if axes.get_ylabel().startswith("Accuracy"))
    lines = [json.loads(line) for line in (result.directory / "rounds.jsonl").read_text().splitlines()]
    assert accuracy.get_lines()[0].get_ydata() == pytest.approx([100 * line["accuracy"] for line in lines])
    print_result(result)
    assert repr(result) == capsys.readouterr().out.rstrip("\n")
    assert f"epsilon {result.privacy[0]['epsilon']:.4g} at delta 0.001" in repr(result)
    assert unescape(result._repr_html_()) == f"<pre>{result!r}</pre>"


def test_a_plan_as_a_frame_a_figure_and_as_text(result, tmp_path: Path):
    pytest.importorskip("pandas")
    plan = fedsim.plan(parse_scenario(PRIVATE, "small"), rows=6)
    spent = [row["epsilon"] for row in plan.facts["privacy"][0]["table"]]
    assert spent[-1] == pytest.approx(result.privacy[0]["epsilon"])
    assert plan.to_frame()["epsilon"].tolist() == spent
    curve, budget = plan.plot().axes[0].get_lines()
    assert list(curve.get_ydata()) == spent
    assert list(budget.get_ydata()) == [4.0, 4.0]
    assert repr(plan) == as_lines(plan.facts)
    (tmp_path / "x.toml").write_text(PRIVATE)
    assert fedsim.plan(tmp_path / "x.toml", rows=6) == plan


def test_a_plan_without_privacy_can_be_drawn():
    plan = fedsim.plan(parse_scenario(BASE, "small"))
    assert plan.plot().axes[0].get_lines()[0].get_label() == "no privacy: ε = ∞"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep of five epsilons and no privacy, five seeds each; all seeds of a setting spent the same."""
    folder = write_sweep(tmp_path_factory.mktemp("swept") / "sweep", lines(), runs=False)
    sweep = Sweep("swept", {}, Search(seeds=SEEDS), {})
    rows = sorted(lines(), key=lambda row: (row["trial"], row["seed"]))
    return SweepResult(folder, outcome(sweep, rows, ["accuracy", "epsilon_example"], folder), rows)


def test_a_sweep_as_a_frame_is_its_runs(swept):
    pandas = pytest.importorskip("pandas")
    frame = swept.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["accuracy"].tolist() == [row["metrics"]["accuracy"] for row in swept.rows]
    assert frame["privacy.example.target_epsilon"].tolist() == [*np.repeat(EPSILONS, 5), *[math.inf] * 5]
    assert frame["epsilon_example"].tolist() == frame["privacy.example.target_epsilon"].tolist()


def test_a_sweep_as_a_figure_and_as_text(swept, capsys):
    (axes,) = swept.plot().axes
    assert axes.get_xlabel().startswith("ε for one record")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "1", "2", "4", "8", "∞"]
    print_sweep(swept)
    assert repr(swept) == capsys.readouterr().out.rstrip("\n")
    found = next(setting for setting in swept.summary["settings"] if setting["trial"] == 2)["objectives"]["accuracy"]
    half = found["high"] - found["mean"]
    assert f"accuracy {found['mean']:.4f} ± {half:.4f}" in repr(swept)
    assert "± 0.0000" not in repr(swept)  # what all seeds spend alike has no spread to tell
    assert unescape(swept._repr_html_()) == f"<pre>{swept!r}</pre>"


def test_a_sweep_that_measured_nothing_cannot_be_drawn(tmp_path: Path):
    failed = [line(0, 0, 1.0, 0.5, status="failed", metrics={})]
    folder = write_sweep(tmp_path / "sweep", failed, runs=False)
    with pytest.raises(BadInput, match="nothing to draw"):
        SweepResult(folder, {}, failed).plot()


def test_a_scenario_file_can_be_run_as_it_can_be_planned(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    (tmp_path / "x.toml").write_text(BASE.replace("rounds = 6", "rounds = 1"))
    assert fedsim.run(tmp_path / "x.toml", tmp_path / "run").summary["rounds"] == 1
    with pytest.raises(BadInput, match=r"no\.toml cannot be read"):
        fedsim.run(str(tmp_path / "no.toml"), tmp_path / "other")


def test_what_is_public_is_listed_before_it_is_imported():
    code = "import fedsim, sys; print(*dir(fedsim)); print('torch' in sys.modules)"
    names, torch = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert set(fedsim.__all__) <= set(names.split())
    assert torch == "False"
