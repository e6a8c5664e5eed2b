"""The table of attacks and defences: it covers both tables, goes on where it stopped, and shows what it found."""

from __future__ import annotations

import json

import pytest

import fedsim
from benchmarks import robustness
from benchmarks.robustness import ATTACKS, BASE, DEFENCES, Cell
from fedsim.aggregation import AGGREGATORS
from fedsim.attacks import ATTACKS as KINDS


def test_every_attack_and_every_aggregator_is_in_the_table():
    assert set(AGGREGATORS) <= set(DEFENCES)
    cells = [Cell("IID", "nobody", name, 0) for name in AGGREGATORS]
    cells += [Cell("Dirichlet(1)", name, "mean", 1) for name in ATTACKS]
    scenarios = [fedsim.parse_scenario(BASE, "x", cell.overrides) for cell in cells]
    assert {scenario.algorithm.aggregation.kind for scenario in scenarios} == set(AGGREGATORS)
    assert {scenario.attack.kind for scenario in scenarios if scenario.attack} == set(KINDS)
    assert len({cell.key for cell in cells}) == len(cells)


def arguments(folder, *more):
    """A table of two cells."""
    chosen = ["--partitions", "IID", "--attacks", "nobody", "backdoor", "--defences", "mean", "--seeds", "1"]
    return ["robustness", "--json", str(folder / "runs.json"), "--jobs", "1", *chosen, *more]


def test_only_what_is_missing_is_run(tmp_path, monkeypatch, capsys):
    done = Cell("IID", "nobody", "mean", 0)
    (tmp_path / "runs.json").write_text(json.dumps({done.key: {"accuracy": 0.5}}))
    asked = []

    def outcomes(cells, jobs):
        asked.extend(cells)
        yield from ((cell, {"accuracy": 0.4, "attack_success": 0.9}) for cell in cells)

    monkeypatch.setattr(robustness, "_outcomes", outcomes)
    monkeypatch.setattr("sys.argv", arguments(tmp_path, "--markdown", str(tmp_path / "table.md")))
    robustness.main()
    assert asked == [Cell("IID", "backdoor", "mean", 0)]
    assert len(json.loads((tmp_path / "runs.json").read_text())) == 2
    assert (tmp_path / "table.md").read_text().splitlines() == [
        "IID:",
        "",
        "| | mean |",
        "|---|---|",
        "| nobody | 50 |",
        "| backdoor | **40 / 90** |",
    ]
    assert "| backdoor | **40 / 90** |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("runs", "unharmed", "text"),
    [
        ([{"accuracy": 0.9}, {"accuracy": 0.8}], [{"accuracy": 0.89}], "85"),
        ([{"accuracy": 0.8}], [{"accuracy": 0.86}], "**80**"),
        ([{"accuracy": 0.8, "attack_success": 0.1}], None, "80 / 10"),
        ([{"accuracy": 0.8}, {"diverged": "NaN"}], None, "**diverged**"),
    ],
)
def test_what_was_hurt_is_bold(runs, unharmed, text):
    assert robustness._text(runs, unharmed) == text


def test_a_cell_is_a_run_of_the_scenario(monkeypatch):
    shorter = BASE.replace("rounds = 20", "rounds = 1").replace("every = 20", "every = 1")
    monkeypatch.setattr(robustness, "BASE", shorter)
    found = robustness.outcome(Cell("IID", "backdoor", "median", 0))
    assert set(found) == {"accuracy", "attack_success"}
    monkeypatch.setattr(robustness, "BASE", BASE.replace("learning_rate = 0.2", "learning_rate = 1e30"))
    assert "diverged" in robustness.outcome(Cell("IID", "nobody", "mean", 0))["diverged"]
