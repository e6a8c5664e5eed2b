"""Cross-validation: the mean and spread of the folds, one statement over all of them, and going on after a stop."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim import cli
from fedsim.client import train_clients
from fedsim.console import print_result
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.loading import ScenarioError, parse_scenario
from fedsim.planning_scenario import plan_scenario
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import compose
from fedsim.privacy.ledger import Ledger
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

FOLDS = ["evaluation.folds=2", "rounds=2", 'population={clients=3, partition={kind="iid"}}']


@pytest.fixture
def no_reports(monkeypatch):
    """Drawing figures takes longer than these runs."""
    for module in ("running", "folds"):
        monkeypatch.setattr(f"fedsim.{module}.build_report", lambda path: path)


def scenario(text=SMALL, *overrides):
    return parse_scenario(text, "x", [*FOLDS, *overrides])


def test_the_summary_holds_mean_and_deviation_over_the_folds(tmp_path):
    result = fedsim.run(scenario(SMALL, "evaluation.unseen_clients=0.34"), tmp_path / "run")
    assert (result.exit_code, result.summary["status"]) == (0, "completed")
    folds = [json.loads((tmp_path / f"run/fold-{fold}/summary.json").read_text()) for fold in (1, 2)]
    for name, mean in result.metrics.items():
        values = [fold["metrics"][name] for fold in folds]
        assert mean == pytest.approx(np.mean(values))
        assert result.summary["metrics_std"][name] == pytest.approx(np.std(values, ddof=1))
    assert {"accuracy", "accuracy_worst", "accuracy_unseen"} <= set(result.metrics)
    assert [fold["metrics"] for fold in result.summary["folds"]] == [fold["metrics"] for fold in folds]
    whole = build_federation(scenario(SMALL, "evaluation.unseen_clients=0.34")).holdings.whole
    assert sum(fold["test_records"] for fold in folds) == len(whole.indices)
    for folder in ("", "fold-1", "fold-2"):
        assert "<html" in (tmp_path / "run" / folder / "report.html").read_text()
        assert (tmp_path / "run" / folder / "scenario.toml").exists()


@pytest.mark.usefixtures("no_reports")
def test_a_fold_run_by_itself_is_the_fold(tmp_path):
    fedsim.run(scenario(), tmp_path / "all")
    fedsim.run(scenario(SMALL, "evaluation.fold=2"), tmp_path / "one")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("all/fold-2", "one"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("no_reports")
def test_a_stopped_cross_validation_goes_on_without_running_a_finished_fold_again(tmp_path):
    rounds = []

    def stop_in_the_second_fold(row):
        rounds.append(row["round"])
        if len(rounds) == 3:
            raise KeyboardInterrupt

    chosen = scenario(SMALL + EXAMPLE_PRIVACY, "evaluation.folds=3")
    stopped = fedsim.run(chosen, tmp_path / "run", stop_in_the_second_fold)
    assert (stopped.exit_code, stopped.summary["status"]) == (130, "interrupted")
    assert len(stopped.summary["folds"]) == 2
    resumed = fedsim.resume(tmp_path / "run", rounds.append)
    assert len(rounds) == 3 + 3  # one round of the second fold was left, and two of the third
    whole = fedsim.run(chosen, tmp_path / "whole")
    assert resumed.metrics == whole.metrics
    assert resumed.privacy == whole.privacy


@pytest.mark.usefixtures("no_reports")
def test_epsilon_composes_the_events_of_all_folds(tmp_path):
    """The oracle adds up every client's events fold by fold, from the plans alone."""
    chosen = scenario(SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY)
    result = fedsim.run(chosen, tmp_path / "run")
    plans = [build_federation(fold).plan for fold in chosen.runs]
    records = [
        epsilon(compose([(plan.example.event(client), 2 * int(plan.example.steps[client])) for plan in plans]), 1e-4)
        for client in range(3)
    ]
    clients = epsilon(compose([(plan.client.event, 2) for plan in plans]), 1e-2)
    entries = {entry["unit"]: entry for entry in result.privacy}
    assert entries["example"]["epsilon"] == pytest.approx(max(records))
    assert entries["client"]["epsilon"] == pytest.approx(clients)
    assert (
        entries["example"]["epsilon"]
        > 1.2 * json.loads((tmp_path / "run/fold-1/summary.json").read_text())["privacy"][0]["epsilon"]
    )
    assert any("compose" in line for line in entries["example"]["assumptions"])
    assert "tested in one of the folds" in result.summary["outside"][0]
    (tmp_path / "x.toml").write_text(chosen.to_toml())
    planned = plan_scenario(tmp_path / "x.toml")["privacy"]
    assert [unit["epsilon"] for unit in planned] == pytest.approx([max(records), clients])


@pytest.mark.usefixtures("no_reports")
def test_a_fold_says_that_it_is_not_alone(tmp_path):
    result = fedsim.run(scenario(SMALL + EXAMPLE_PRIVACY, "evaluation.fold=1"), tmp_path / "run")
    assert any("fold 1 of 2 alone" in flag for flag in result.privacy[0]["flags"])


@pytest.mark.usefixtures("no_reports")
def test_a_target_is_said_to_be_that_of_each_fold(tmp_path, capsys):
    text = SMALL + EXAMPLE_PRIVACY.replace("noise_multiplier = 1.1", "target_epsilon = 2.0")
    result = fedsim.run(scenario(text), tmp_path / "run")
    entry = result.privacy[0]
    assert entry["epsilon"] > 2
    assert entry["target_epsilon"] is entry["budget"] is None
    said = f"limit of 2 holds for each fold by itself; together they spent {entry['epsilon']:.4g}"
    assert sum(said in flag for flag in entry["flags"]) == 1
    assert entry["fold_limits"] == [2.0]
    print_result(result)
    assert f"note: the {said}" in capsys.readouterr().out.splitlines()
    fold = json.loads((tmp_path / "run/fold-1/summary.json").read_text())["privacy"][0]
    trained_on = "the guarantee is for those trained on"
    assert any(trained_on in line for line in fold["assumptions"])
    assert not any(trained_on in line for line in entry["assumptions"])
    assert any("in all folds, or in all but one" in line for line in entry["assumptions"])


def test_a_limit_of_each_fold_is_announced_before_the_run(tmp_path, monkeypatch, capsys):
    text = SMALL + EXAMPLE_PRIVACY.replace("noise_multiplier = 1.1", "target_epsilon = 2.0")
    (tmp_path / "s.toml").write_text(scenario(text).to_toml())
    line = "folds: the limit of 2 is for each fold; all folds together spend more; see fedsim plan"
    for words, said in (((), True), (("--set", "evaluation.fold=1"), False)):
        monkeypatch.setattr("sys.argv", ["fedsim", "check", str(tmp_path / "s.toml"), *words])
        cli.main()
        assert (line in capsys.readouterr().out.splitlines()) == said


@pytest.mark.usefixtures("no_reports")
def test_no_two_folds_draw_the_same_noise_or_cohorts(tmp_path):
    """Noise hundreds of times as large as what is learnt: over 4,810 values, a correlation of 0.1 is 7 deviations."""
    overrides = ["rounds=1", "population.clients=40", 'cohort.sampling={kind="poisson", rate=0.5}']
    loud = CLIENT_PRIVACY.replace("1.2", "1000.0")
    fedsim.run(scenario(SMALL + loud, *overrides), tmp_path / "run")
    start = {name: tensor.detach() for name, tensor in build_federation(scenario()).module.named_parameters()}
    moved = []
    for fold in (1, 2):
        model = load_file(tmp_path / f"run/fold-{fold}/model.safetensors")
        moved.append(torch.cat([(model[name] - start[name]).flatten() for name in model]).numpy())
    assert abs(np.corrcoef(*moved)[0, 1]) < 0.2
    first, second = ((tmp_path / f"run/fold-{fold}/cohorts.bin").read_bytes() for fold in (1, 2))
    assert first != second


def test_no_two_folds_draw_the_same_noise_in_a_client():
    loud = EXAMPLE_PRIVACY.replace("1.1", "100.0")
    made = [build_federation(fold) for fold in scenario(SMALL + loud).runs]
    first, second = (train_clients(federation, job_of(federation, [0])).total for federation in made)
    np.testing.assert_array_equal(first, train_clients(made[0], job_of(made[0], [0])).total)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


def test_a_delta_that_is_too_large_for_the_records_of_all_folds_is_refused(tmp_path):
    chosen = scenario(SMALL + EXAMPLE_PRIVACY)
    largest = build_federation(chosen).holdings.whole.sizes.max()
    text = SMALL + EXAMPLE_PRIVACY.replace("1e-4", str(1.1 / largest))
    with pytest.raises(BadInput, match=r"below 1 / n for all its n records"):
        fedsim.run(scenario(text), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_shared_ledger_is_refused():
    text = SMALL + EXAMPLE_PRIVACY + '[privacy]\nledger = "x.db"\nrandomness = "secure"\n'
    with pytest.raises(ScenarioError, match=r"no privacy\.ledger can be shared"):
        parse_scenario(text, "x", FOLDS)


def test_a_ledger_of_other_clients_is_not_taken_in(tmp_path):
    Ledger(tmp_path / "a.db", "p", 3, "run").close()
    ledger = Ledger(tmp_path / "b.db", "q", 4, "run")
    with pytest.raises(BadInput, match="kept for 3 clients, not 4"):
        ledger.absorb(tmp_path / "a.db")
    ledger.close()


@pytest.mark.usefixtures("no_reports")
def test_all_folds_start_from_the_file_that_the_first_one_did(tmp_path):
    fedsim.run(parse_scenario(SMALL, "x", ["rounds=1"]), tmp_path / "first")
    model = f'model={{name="mlp", hidden=[8], initial="{tmp_path}/first/model.safetensors"}}'
    result = fedsim.run(scenario(SMALL + EXAMPLE_PRIVACY, "rounds=1", model), tmp_path / "run")
    pinned = parse_scenario((tmp_path / "run/scenario.toml").read_text(), "x").model.initial_sha256
    assert pinned is not None
    assert f"(SHA-256 {pinned})" in " ".join(result.summary["outside"])


def test_a_million_folds_are_refused():
    with pytest.raises(BadInput, match=r"evaluation\.folds"):
        scenario(SMALL, "evaluation.folds=1000000")
