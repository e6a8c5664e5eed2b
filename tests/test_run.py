"""A run from Python: its record, its privacy, resuming it, and what stops it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
import fedsim.federation
from fedsim.client import train_clients
from fedsim.errors import BadInput, FedsimError
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.ledger import Ledger
from fedsim.training.trainer import Trained
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

BOTH = SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY
POISSON = 'cohort.sampling={kind="poisson", rate=0.5}'


def scenario(text=SMALL, *overrides):
    return fedsim.parse_scenario(text, "small", overrides)


def rounds(directory):
    rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_record_holds_what_is_promised(tmp_path):
    result = fedsim.run(scenario(BOTH, POISSON), tmp_path / "run")
    promised = (
        "scenario.toml environment.json rounds.jsonl ledger.db model.safetensors checkpoint summary.json report.html"
    )
    assert set(promised.split()) <= {file.name for file in result.directory.iterdir()}
    assert fedsim.load_scenario(result.directory / "scenario.toml") == scenario(BOTH, POISSON)
    fields = [
        "round",
        "cohort",
        "dropped",
        "loss",
        "accuracy",
        "bytes_up",
        "bytes_down",
        "epsilon_example",
        "epsilon_client",
    ]
    assert all(set(fields) <= set(row) for row in rounds(result.directory))
    wanted = "scenario digest engine trainer device rounds metrics privacy seconds bytes memory"
    assert set(wanted.split()) <= set(result.summary)
    assert [entry["unit"] for entry in result.privacy] == ["example", "client"]
    wanted = "unit epsilon delta relation adversary accountant sampling noise_multiplier rate steps clients randomness"
    assert all(set(wanted.split()) <= set(entry) for entry in result.privacy)
    assert set(result.privacy[0]["clients"]) == {"max", "median", "min"}


def test_reported_epsilons_are_those_of_an_independent_recount(tmp_path):
    """Per client: steps of the rounds in which it was drawn, from the cohorts alone, without the ledger."""
    chosen = scenario(BOTH, POISSON, "rounds=6")
    result = fedsim.run(chosen, tmp_path / "run")
    made = fedsim.federation.build_federation(chosen)
    plan = made.plan.example
    from fedsim.seeding import Stream, generator

    times = np.zeros(6, int)
    for round_ in range(1, 7):
        times[made.plan.sampling.draw(6, round_, generator(3, Stream.COHORT, round_))] += 1
    counts = times * plan.steps
    expected = [epsilon(compose([(plan.event(c), int(counts[c]))]), 1e-4) for c in range(6)]
    entry = result.privacy[0]
    assert entry["epsilon"] == max(expected)
    assert entry["clients"] == {"max": max(expected), "median": float(np.median(expected)), "min": min(expected)}
    assert rounds(result.directory)[-1]["epsilon_example"] == max(expected)
    client = epsilon(compose([(Event(1.2, 0.5, "poisson"), 6)]), 1e-2)
    assert result.privacy[1]["epsilon"] == rounds(result.directory)[-1]["epsilon_client"] == client


def test_the_same_scenario_gives_the_same_run(tmp_path):
    first = fedsim.run(scenario(BOTH, POISSON), tmp_path / "a")
    second = fedsim.run(scenario(BOTH, POISSON), tmp_path / "b")
    assert rounds(first.directory) == rounds(second.directory)
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_block_size_changes_nothing_beyond_rounding(tmp_path):
    big = fedsim.run(scenario(BOTH, POISSON), tmp_path / "a")
    small = fedsim.run(scenario(BOTH, POISSON, "engine.memory_gib=1e-9"), tmp_path / "b")
    for name, tensor in load_file(big.directory / "model.safetensors").items():
        torch.testing.assert_close(load_file(small.directory / "model.safetensors")[name], tensor, rtol=1e-4, atol=1e-5)


class Stop(Exception):
    pass


def stop_at(round_):
    def on_round(row):
        if row["round"] == round_:
            raise Stop

    return on_round


@pytest.mark.parametrize("server", ["sgd", "adam"])
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(tmp_path, server):
    chosen = scenario(BOTH, POISSON, "rounds=5", f'algorithm.server={{optimizer="{server}", learning_rate=0.5}}')
    whole = fedsim.run(chosen, tmp_path / "whole")
    for round_ in (1, 4):
        path = tmp_path / f"stopped {round_}"
        with pytest.raises(Stop):
            fedsim.run(chosen, path, stop_at(round_))
        resumed = fedsim.resume(path)
        assert rounds(path) == rounds(whole.directory)
        assert (path / "model.safetensors").read_bytes() == (whole.directory / "model.safetensors").read_bytes()
        assert resumed.privacy == whole.privacy


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path):
    chosen = scenario(BOTH, POISSON, "rounds=5")
    whole = fedsim.run(chosen, tmp_path / "whole")
    path = tmp_path / "stopped"
    with pytest.raises(Stop):
        fedsim.run(chosen, path, stop_at(3))
    newest = sorted((path / "checkpoint").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:-20])
    with (path / "rounds.jsonl").open("a") as file:
        file.write('{"round": 4, "torn')
    fedsim.resume(path)
    assert rounds(path) == rounds(whole.directory)


def test_a_spent_budget_stops_the_run_and_keeps_model_and_record(tmp_path):
    made = fedsim.federation.build_federation(scenario(SMALL + EXAMPLE_PRIVACY))
    plan = made.plan.example
    costs = [epsilon(compose([(plan.event(c), 2 * int(plan.steps[c]))]), 1e-4) for c in range(6)]
    chosen = scenario(SMALL + EXAMPLE_PRIVACY, f"privacy.example.budget={max(costs)!r}")
    result = fedsim.run(chosen, tmp_path / "run")
    assert (result.exit_code, result.summary["status"], result.summary["rounds"]) == (3, "budget_exhausted", 2)
    assert result.privacy[0]["epsilon"] == max(costs)
    assert load_file(result.directory / "model.safetensors")
    assert len(rounds(result.directory)) == 2


def test_clients_whose_budget_is_spent_are_left_out(tmp_path):
    """With a public rate all clients cost the same a round; Poisson cohorts spend them unevenly."""
    text = SMALL + EXAMPLE_PRIVACY + "sampling_rate = 0.2\n"
    event = Event(1.1, 0.2, "poisson")
    budget = epsilon(compose([(event, 2 * 5)]), 1e-4)  # two rounds of five steps
    chosen = scenario(text, f"privacy.example.budget={budget!r}", POISSON, "rounds=40")
    result = fedsim.run(chosen, tmp_path / "run")
    assert result.exit_code == 3
    made = fedsim.federation.build_federation(chosen)
    ledger = Ledger(result.directory / "ledger.db", made.population.digest(), 6, "reader")
    counts = [sum(count for _, count in ledger.composition("example", client)) for client in range(6)]
    assert max(counts) == 10
    assert sum(count < 10 for count in counts) < 3  # fewer than a round expects are left
    assert result.privacy[0]["epsilon"] == budget
    assert any("left out" in flag for flag in result.privacy[0]["flags"])


def test_a_client_level_budget_stops_the_run(tmp_path):
    two = epsilon(compose([(Event(1.2), 2)]), 1e-2)
    result = fedsim.run(scenario(SMALL + CLIENT_PRIVACY, f"privacy.client.budget={two!r}"), tmp_path / "run")
    assert (result.exit_code, result.summary["rounds"]) == (3, 2)


def test_early_stopping(tmp_path):
    chosen = scenario(
        SMALL, "rounds=30", "algorithm.local.learning_rate=1e-9", "evaluation.early_stopping={patience=2}"
    )
    result = fedsim.run(chosen, tmp_path / "run")
    assert result.summary["status"] == "early_stopped"
    assert result.summary["rounds"] < 30
    assert result.exit_code == 0


def test_ctrl_c_keeps_everything_and_can_be_resumed(tmp_path):
    def interrupt(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    result = fedsim.run(scenario(BOTH), tmp_path / "run", interrupt)
    assert (result.exit_code, result.summary["status"]) == (130, "interrupted")
    assert fedsim.resume(tmp_path / "run").summary["status"] == "completed"
    assert rounds(tmp_path / "run") == rounds(fedsim.run(scenario(BOTH), tmp_path / "whole").directory)


def test_an_existing_directory_is_left_alone(tmp_path):
    with pytest.raises(BadInput, match="exists already"):
        fedsim.run(scenario(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be made"):
        fedsim.run(scenario(), tmp_path / "file" / "run")


def test_divergence_is_an_error_that_says_so(tmp_path):
    with pytest.raises(FedsimError, match="diverged"):
        fedsim.run(scenario(SMALL, "algorithm.local.learning_rate=1e30", "rounds=9"), tmp_path / "run")


def test_a_failing_client_app_stops_the_run_with_its_reason(tmp_path, monkeypatch):
    def broken(federation, job, store):
        raise ValueError("the disk is on fire")

    monkeypatch.setattr("fedsim.client.train_clients", broken)
    with pytest.raises(FedsimError, match="the disk is on fire"):
        fedsim.run(scenario(), tmp_path / "run")


def test_an_invalid_update_counts_as_zero_and_is_counted(federation, monkeypatch):
    made = federation(text=SMALL + CLIENT_PRIVACY)
    job = job_of(made, round_=1)

    def poisoned(trainer, local, problem, work):
        updates = torch.ones(len(work.clients), len(problem.start))
        updates[work.clients.tolist().index(4)] *= float("nan")
        return Trained(updates)

    monkeypatch.setattr(type(made.trainer), "train", poisoned)
    reply = train_clients(made, job)
    assert reply.invalid == 1
    assert reply.clients == 6
    assert np.linalg.norm(reply.total) == pytest.approx(5 * 0.4, rel=1e-5)


def test_empty_cohorts_release_noise_and_are_charged(tmp_path):
    chosen = scenario(SMALL + CLIENT_PRIVACY, 'cohort.sampling={kind="poisson", rate=1e-6}', "rounds=2")
    result = fedsim.run(chosen, tmp_path / "run")
    assert [row["cohort"] for row in rounds(result.directory)] == [0, 0]
    made = fedsim.federation.build_federation(chosen)
    moved = made.trainer.layout.flatten(load_file(result.directory / "model.safetensors")) - made.start
    assert float(moved.std()) == pytest.approx(2**0.5 * 1.2 * 0.4 / 6e-6, rel=0.1)
    assert result.privacy[0]["steps"] == 2


def test_without_client_privacy_weights_are_sizes_and_with_it_uniform_or_capped(federation):
    made = federation()
    job = job_of(made, round_=1)
    assert train_clients(made, job).weight == made.population.sizes.sum()
    uniform = federation(text=SMALL + CLIENT_PRIVACY)
    assert train_clients(uniform, job_of(uniform)).weight == 6
    capped = federation('algorithm.weighting="examples"', "algorithm.weight_cap=100", text=SMALL + CLIENT_PRIVACY)
    assert train_clients(capped, job_of(capped)).weight == pytest.approx(
        np.minimum(made.population.sizes / 100, 1).sum()
    )


def test_noise_that_was_not_charged_is_refused(tmp_path, monkeypatch):
    from fedsim.privacy.plan import ExamplePlan

    honest = ExamplePlan.charges

    def forgetful(self, cohort):
        return honest(self, cohort[1:])

    monkeypatch.setattr(ExamplePlan, "charges", forgetful)
    with pytest.raises(FedsimError, match="does not match what the ledger was charged"):
        fedsim.run(scenario(SMALL + EXAMPLE_PRIVACY), tmp_path / "run")


def test_the_run_directory_that_disappears_is_one_error(tmp_path):
    import shutil

    def remove(row):
        shutil.rmtree(tmp_path / "run")

    with pytest.raises(FedsimError, match="cannot be written"):
        fedsim.run(scenario(), tmp_path / "run", remove)
