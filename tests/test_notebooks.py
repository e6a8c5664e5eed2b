"""Results as objects for notebooks: their frames, figures and texts say what the record says."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest

import fedsim
from fedsim.console import as_lines, print_result
from fedsim.loading import parse_scenario
from fedsim.result import Result

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
