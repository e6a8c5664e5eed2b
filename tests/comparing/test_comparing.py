"""Comparisons of hand-made runs, against SciPy, NumPy and counting by hand."""

from __future__ import annotations

import html
import json
import math
import re
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from scipy import stats

import fedsim
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.report.comparison_figures import panels

PLAIN = {0: 0.90, 1: 0.94, 2: 0.91, 3: 0.93}
PRIVATE = {0: 0.80, 1: 0.86, 2: 0.84, 4: 0.70}


def make_run(folder: Path, seed: int, accuracy: float, epsilon: float | None = None, **settings: Any) -> Path:
    """A run's record: its clients hold 10, 20, ... 60 test records, and the larger a client the better it does."""
    folder.mkdir(parents=True)
    scenario: dict[str, Any] = {
        "name": folder.name,
        "seed": seed,
        "rounds": 3,
        "data": {"source": "digits"},
        **settings,
    }
    if epsilon is not None:
        scenario["privacy"] = {"example": {"target_epsilon": epsilon, "delta": 1e-4}}
    (folder / "scenario.toml").write_text(tomli_w.dumps(scenario))
    entry = {"unit": "none", "epsilon": "inf", "delta": 0.0, "relation": "none"}
    if epsilon is not None:
        entry = {"unit": "example", "epsilon": epsilon - 0.01 * seed, "delta": 1e-4, "relation": "add-remove"}
    values = [accuracy - 0.1 + 0.02 * client for client in range(6)]
    summary = {
        "scenario": folder.name,
        "rounds": 3,
        "status": "completed",
        "main_metric": "accuracy",
        "metrics": {
            "accuracy": accuracy,
            "loss": 1 - accuracy,
            "accuracy_mean": float(np.mean(values)),
            "accuracy_p10": float(np.percentile(values, 10)),
            "accuracy_worst": min(values),
        },
        "privacy": [entry],
        "bytes": {"up": 1000, "down": 2000},
        "seconds": {"total": 1.5},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = [{"round": r, "accuracy": accuracy * r / 3, "loss": 1.0 / r, "epsilon_example": epsilon} for r in (1, 2, 3)]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    clients = [{"client": n, "test_records": 10 * (n + 1), "value": value} for n, value in enumerate(values)]
    (folder / "clients.json").write_text(
        json.dumps({"metrics_by_client": {"metric": "accuracy", "clients": clients[::-1]}})
    )
    (folder / "report.html").write_text("<p>its own report</p>")
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Four seeds without privacy, four with; three seeds are in both."""
    without = [make_run(tmp_path / f"plain-{seed}", seed, value) for seed, value in PLAIN.items()]
    return without + [make_run(tmp_path / f"private-{seed}", seed, value, 4.0) for seed, value in PRIVATE.items()]


def test_runs_that_differ_in_the_seed_alone_are_one_group(runs):
    facts = fedsim.compare(*runs).facts
    assert [group["seeds"] for group in facts["groups"]] == [[0, 1, 2, 3], [0, 1, 2, 4]]
    assert [group["status"] for group in facts["groups"]] == [{"completed": 4}] * 2
    assert facts["differences"] == [
        {"key": "privacy.example.delta", "values": [None, 1e-4]},
        {"key": "privacy.example.target_epsilon", "values": [None, 4.0]},
    ]
    assert facts["groups"][0]["privacy"]["none"]["epsilon"] == math.inf
    assert facts["groups"][1]["privacy"]["example"]["epsilon"] == 4.0  # the largest of the seeds
    assert [group["label"] for group in facts["groups"]] == ["no privacy", "target_epsilon=4"]


def test_means_have_the_interval_of_scipy(runs):
    for group, values in zip(fedsim.compare(*runs).facts["groups"], (PLAIN, PRIVATE), strict=True):
        low, high = stats.ttest_1samp(list(values.values()), 0).confidence_interval(0.95)
        found = group["metrics"]["accuracy"]
        assert (found["low"], found["high"]) == pytest.approx((low, high))
        assert (found["mean"], found["seeds"]) == (pytest.approx(np.mean(list(values.values()))), 4)


def test_differences_are_paired_by_seed(runs):
    (pair,) = fedsim.compare(*runs).facts["paired"]
    common = [0, 1, 2]
    low, high = stats.ttest_rel([PRIVATE[s] for s in common], [PLAIN[s] for s in common]).confidence_interval(0.95)
    assert (pair["low"], pair["high"]) == pytest.approx((low, high))
    assert pair["mean"] == pytest.approx(np.mean([PRIVATE[s] - PLAIN[s] for s in common]))
    assert (pair["seeds"], pair["metric"]) == (3, "accuracy")
    (one,) = fedsim.compare(runs[0], runs[4]).facts["paired"]
    assert (one["seeds"], one["low"], one["mean"]) == (1, None, pytest.approx(-0.1))
    assert fedsim.compare(runs[3], runs[7]).facts["paired"] == []


def test_the_same_seed_twice_is_one_pair(tmp_path, runs):
    again = make_run(tmp_path / "again", 0, 0.96)
    groups = fedsim.compare(runs[0], again, runs[4]).facts
    assert groups["groups"][0]["metrics"]["accuracy"]["mean"] == pytest.approx(0.93)
    assert groups["paired"][0]["seeds"] == 1


def test_how_clients_fare_by_size(runs):
    found = fedsim.compare(*runs).facts["groups"][1]["clients"]
    values = np.array([[value - 0.1 + 0.02 * client for client in range(6)] for value in PRIVATE.values()])
    thirds = values.mean(axis=0).reshape(3, 2).mean(axis=1)
    assert list(found["by_size"].values()) == pytest.approx(thirds.tolist())
    assert (found["metric"], found["worst"]) == ("accuracy", pytest.approx(values.min(axis=1).mean()))
    assert found["bad_tail"] == pytest.approx(np.percentile(values, 10, axis=1).mean())


def test_a_frame_has_a_line_for_each_run(runs):
    pandas = pytest.importorskip("pandas")
    frame = fedsim.compare(*runs).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    means = frame.groupby("group", sort=False)["accuracy"].mean()
    assert means.tolist() == pytest.approx([np.mean(list(PLAIN.values())), np.mean(list(PRIVATE.values()))])
    assert "epsilon_none" not in frame
    assert frame["epsilon_example"].tolist() == [math.inf] * 4 + [4.0 - 0.01 * seed for seed in PRIVATE]
    assert fedsim.compare(runs[0]).to_frame()["epsilon_client"].tolist() == [math.inf]
    assert fedsim.compare(runs).to_frame().equals(frame)  # a list of runs is those runs


def test_without_pandas_it_says_what_to_install(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BadInput, match=r'pip install "fedsim\[tracking\]"'):
        fedsim.compare(*runs).to_frame()


def test_the_curves_are_means_over_seeds(runs):
    comparison = fedsim.compare(*runs)
    titles = [panel.title for panel in panels(comparison)]
    assert titles == [
        "Accuracy over the rounds",
        "Loss over the rounds",
        "Privacy spent over the rounds",
        "Who fares how",
    ]
    figure = comparison.plot()
    lines = figure.axes[0].get_lines()
    assert lines[0].get_ydata() == pytest.approx([100 * np.mean(list(PLAIN.values())) * r / 3 for r in (1, 2, 3)])
    assert lines[1].get_ydata() == pytest.approx([100 * np.mean(list(PRIVATE.values())) * r / 3 for r in (1, 2, 3)])


def test_quality_against_epsilon_needs_two_epsilons(tmp_path, runs):
    other = [make_run(tmp_path / f"strict-{seed}", seed, 0.5, 1.0) for seed in (0, 1)]
    figure = next(p for p in panels(fedsim.compare(*runs, *other)) if p.title == "Accuracy against ε")
    assert "best without privacy" in figure.svg
    assert "mathdefault" not in figure.svg
    assert all(f">{epsilon}</text>" in figure.svg for epsilon in (1, 4))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedsim", "compare", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_on_the_command_line(runs, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    assert command(monkeypatch, *map(str, runs), "--html", str(page), "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["groups"][0]["privacy"]["none"]["epsilon"] == "inf"
    text = page.read_text()
    links = re.findall(r'href="([^#"]+)"', text)
    assert len(links) == 8
    assert all((tmp_path / link).exists() for link in links)
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert command(monkeypatch, *map(str, runs)) == 0
    out = capsys.readouterr().out
    assert "privacy.example.target_epsilon  –    4\n" in out
    assert re.search(r"\[2\] target_epsilon=4 +\[1\] +Accuracy  -8\.3 points", out)
    assert "4.00 (δ 0.0001, add-remove)" in out
    assert repr(fedsim.compare(*runs)) == out.rstrip("\n")
    for arguments, words in (
        ([str(tmp_path)], "no summary.json"),
        ([str(runs[0]), "--html", str(page)], "exists already"),
        ([str(runs[0]), "--html", str(tmp_path / "page.txt")], ".html"),
        ([str(runs[0]), "--html", str(tmp_path / "no/page.html")], "cannot be written"),
    ):
        assert command(monkeypatch, *arguments) == 2
        assert words in capsys.readouterr().err


def test_a_damaged_run_is_named(runs, tmp_path):
    (runs[1] / "summary.json").write_text("{")
    with pytest.raises(BadInput, match="plain-1 is damaged"):
        fedsim.compare(*runs)
    (runs[4] / "rounds.jsonl").write_text("{\n{}\n")
    with pytest.raises(BadInput, match=r"private-0 is damaged: .*rounds\.jsonl"):
        fedsim.compare(runs[0], runs[4]).plot()
    (runs[0] / "scenario.toml").unlink()
    with pytest.raises(BadInput, match=r"no scenario\.toml"):
        fedsim.compare(runs[0])


def test_how_runs_ended_is_told_where_not_all_are_whole(runs):
    assert "ended" not in repr(fedsim.compare(*runs))
    file = runs[1] / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "budget_exhausted", "rounds": 1}))
    assert re.search(
        r"ended +metric.*\n.*1 budget exhausted, 3 completed .*\n.*  completed ", repr(fedsim.compare(*runs))
    )


def test_runs_of_the_same_seed_are_no_repetition(tmp_path, runs):
    again = make_run(tmp_path / "again", 0, 0.96)
    assert "plain-0  2 of 1 seed  " in repr(fedsim.compare(runs[0], again))


def test_what_was_cut_short_is_compared_to_nothing(runs):
    """Three seeds in both; one of each is cut short, and then all of the first group."""
    for run in (runs[0], runs[5]):
        file = run / "summary.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "interrupted"}))
    (pair,) = fedsim.compare(*runs).facts["paired"]
    assert (pair["seeds"], pair["mean"]) == (1, pytest.approx(PRIVATE[2] - PLAIN[2]))
    found = fedsim.compare(runs[0], *runs[4:])
    assert found.facts["paired"] == []
    assert "1 group has no run that ended by itself" in repr(found)
    assert "interrupted after 3 rounds" in repr(found)


def test_settings_of_the_same_name_are_told_apart_and_so_are_equal_labels(tmp_path):
    both = [
        make_run(tmp_path / name, 0, 0.5, privacy={"example": {"clip_norm": a}, "client": {"clip_norm": b}})
        for name, a, b in (("a", 1.0, 2.0), ("b", 2.0, 1.0))
    ]
    labels = [group["label"] for group in fedsim.compare(*both).facts["groups"]]
    assert labels[0] == "client.clip_norm=2, example.clip_norm=1"
    equal = [make_run(tmp_path / f"same-{n}", 0, 0.5, model=value) for n, value in enumerate(({"x": "1"}, {"x": 1}))]
    page = fedsim.compare(*equal).write_html(tmp_path / "page.html").read_text()
    assert "[1] x=1" in page
    assert "[2] x=1" in page


def test_names_are_text_only_and_links_lead_where_they_say(tmp_path):
    hostile = "<script>alert(1)</script>"
    folders = ["javascript:alert(1)", "a b#c?d%20"]
    runs = [make_run(tmp_path / folder, 0, 0.5, model={"x": hostile + folder}) for folder in folders]
    page = fedsim.compare(*runs).write_html(tmp_path / "page.html").read_text()
    assert hostile not in page
    assert html.escape(hostile) in page
    links = re.findall(r'href="([^#"]+)"', page)
    assert [urllib.parse.unquote(link) for link in links] == [f"{folder}/report.html" for folder in folders]
    assert not any(set(link) & set(":#? ") for link in links)


def test_a_sweep_is_all_its_finished_runs(tmp_path):
    for trial in range(12):
        for seed in (0, 1):
            make_run(tmp_path / f"sweep/runs/t{trial}-s{seed}", seed, 0.5 + 0.01 * trial, algorithm={"rate": trial / 4})
    (tmp_path / "sweep/runs/unfinished").mkdir()
    comparison = fedsim.compare(tmp_path / "sweep")
    assert len(comparison.groups) == 12
    page = comparison.write_html(tmp_path / "page.html").read_text()
    assert "] rate=2.75" in page
    assert "and 5 more" not in page
    assert "The first 7 of 12 groups have a colour" in page
