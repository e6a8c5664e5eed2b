"""What is held out is never trained on: parts of clients, folds, whole clients; and metrics over clients are right."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import fedsim
from fedsim.data import Digits
from fedsim.errors import BadInput
from fedsim.evaluation import client_metrics, evaluate, over_clients
from fedsim.federation import build_federation
from fedsim.holdings import load_holdings
from fedsim.loading import ScenarioError, parse_scenario
from fedsim.params import bind_vector
from fedsim.population import Population
from fedsim.population.held_out import hold_back, hold_back_fold, set_apart
from fedsim.privacy.outside import outside
from fedsim.tasks import Classification, Regression
from tests.conformance.test_tables import owned_digits
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL

PER_CLIENT = 'evaluation.test={kind="per_client", fraction=0.25}'
NATURAL = 'population={partition={kind="natural"}}'

populations = st.lists(st.integers(0, 5), min_size=6, max_size=60).map(
    lambda owners: Population.from_owners(np.array([*range(6), *owners], np.int64), 6)
)


def keys_of(population: Population) -> np.ndarray:
    return np.random.default_rng(1).random(len(population.indices))


@settings(max_examples=60, deadline=None)
@given(populations, st.floats(0.01, 0.99))
def test_the_records_with_the_least_keys_are_held_back(population, fraction):
    keys = keys_of(population)
    kept, held = hold_back(population, fraction, keys)
    for client in range(6):
        records = sorted(population.records(client).tolist(), key=lambda record: keys[record])
        count = min(max(1, int(fraction * len(records) + 0.5)), len(records) - 1)
        assert sorted(held.records(client).tolist()) == sorted(records[:count])
        assert sorted(kept.records(client).tolist()) == sorted(records[count:])


@settings(max_examples=60, deadline=None)
@given(populations, st.integers(2, 7))
def test_every_record_is_held_back_in_exactly_one_fold(population, folds):
    keys = keys_of(population)
    parts = [hold_back_fold(population, fold, folds, keys) for fold in range(1, folds + 1)]
    for client in range(6):
        records = sorted(population.records(client).tolist())
        tested = [held.records(client).tolist() for _, held in parts]
        assert sorted(record for own in tested for record in own) == (records if len(records) > 1 else [])
        assert max(map(len, tested)) - min(map(len, tested)) <= 1
        for (kept, _), own in zip(parts, tested, strict=True):
            assert sorted(kept.records(client).tolist() + own) == records
            assert len(kept.records(client)) >= 1


@settings(max_examples=60, deadline=None)
@given(populations, st.floats(0.01, 0.9), st.integers(0, 99))
def test_clients_are_set_apart_whole(population, share, seed):
    if max(1, round(6 * share)) > 5:
        return
    seen, unseen = set_apart(population, share, np.random.default_rng(seed))
    assert len(unseen) == max(1, round(6 * share))
    both = [part.records(client).tolist() for part in (seen, unseen) for client in range(len(part))]
    assert sorted(both) == sorted(population.records(client).tolist() for client in range(6))


def test_one_client_cannot_be_set_apart():
    with pytest.raises(BadInput, match=r"evaluation.unseen_clients = 0.5: of 1 client"):
        set_apart(Population.from_owners(np.zeros(3, np.int64), 1), 0.5, np.random.default_rng(0))


# All records of the source


def whole_source(seed: int = 0) -> tuple[list[bytes], list[int]]:
    """Every record of the source as bytes, sorted; and how many it gives to train and to test on."""
    data = Digits().load(seed)
    records = [row.tobytes() for part in (data.train, data.test) for row in part.features]
    return sorted(records), [len(data.train), len(data.test)]


@pytest.mark.parametrize("key", ["test", "folds"])
def test_clients_that_hold_back_records_have_the_sources_test_records_too(key):
    every, (trained, tested) = whole_source()
    holdings = load_holdings(parse_scenario(SMALL, "x", [{"test": PER_CLIENT, "folds": "evaluation.folds=4"}[key]]))
    kept, held = holdings.population.indices, holdings.held_back.indices
    assert sorted(np.concatenate([kept, held]).tolist()) == list(range(trained + tested))
    found = [*holdings.data.train.features[kept], *holdings.data.test.features]
    assert sorted(row.tobytes() for row in found) == every
    assert len(holdings.data.test) == len(held)
    assert f"The source's {tested} test records belong to the clients too, as evaluation.{key}" in holdings.notes[-1]


def test_without_held_back_records_the_sources_test_records_stay_apart():
    _, (trained, tested) = whole_source()
    holdings = load_holdings(parse_scenario(SMALL, "x", ["evaluation.unseen_clients=0.34"]))
    assert len(holdings.data.test) == tested
    assert len(holdings.population.indices) + len(holdings.unseen.indices) == trained
    assert holdings.notes == ()


def test_unseen_clients_and_feature_skew_see_every_record_once():
    _, counts = whole_source()
    overrides = [PER_CLIENT, "evaluation.unseen_clients=0.34", 'population.partition={kind="feature_skew", noise=0.5}']
    holdings = load_holdings(parse_scenario(SMALL, "x", overrides))
    parts = holdings.population, holdings.held_back, holdings.unseen
    assert sorted(np.concatenate([part.indices for part in parts]).tolist()) == list(range(sum(counts)))
    plain = load_holdings(parse_scenario(SMALL, "x", [PER_CLIENT, 'population.partition={kind="iid"}'])).data.train
    assert (holdings.data.train.features != plain.features).reshape(sum(counts), -1).any(axis=1).all()


def test_test_records_go_to_their_owners_and_owners_seen_only_there_are_clients_too(monkeypatch):
    def load(source, seed, plain=Digits.load):
        data = plain(source, seed)
        train = replace(data.train, owners=np.arange(len(data.train)) % 4)
        test = replace(data.test, owners=np.arange(len(data.test)) % 6)
        return replace(data, train=train, test=test, owners=tuple("abcdef"))

    monkeypatch.setattr(Digits, "load", load)
    data = Digits().load(0)
    holdings = load_holdings(parse_scenario(SMALL, "x", [NATURAL, PER_CLIENT]))
    owners = [*data.train.owners.tolist(), *data.test.owners.tolist()]
    assert holdings.whole.sizes.tolist() == [owners.count(owner) for owner in range(6)]
    for client in range(6):
        assert {owners[record] for record in holdings.whole.records(client)} == {client}


def test_test_records_that_name_no_owner_are_no_natural_clients_but_are_dealt_out_otherwise(monkeypatch):
    def load(source, seed, plain=owned_digits):
        data = plain(source, seed)
        return replace(data, test=replace(data.test, owners=None))

    monkeypatch.setattr(Digits, "load", load)
    data = Digits().load(0)
    holdings = load_holdings(parse_scenario(SMALL, "x", [NATURAL, PER_CLIENT]))
    assert len(holdings.whole.indices) == len(data.train)
    assert f"The source's {len(data.test)} test records name no owner" in holdings.notes[-1]
    dealt = load_holdings(parse_scenario(SMALL, "x", [PER_CLIENT]))
    assert len(dealt.whole.indices) == len(data.train) + len(data.test)


# Metrics


def test_metrics_over_clients_are_those_of_the_obvious_loop(federation):
    made = federation(PER_CLIENT)
    found = evaluate(made, made.start)
    bind_vector(made.module, made.start)
    shares, right = [], 0
    for client in range(6):
        held = made.holdings.held_back.records(client)
        assert not set(held.tolist()) & set(made.population.records(client).tolist())
        guesses = made.module(made.task.features[held]).argmax(1)
        correct = int((guesses == made.task.labels[held]).sum())
        right += correct
        shares.append(correct / len(held))
    assert found["accuracy"] == pytest.approx(right / len(made.holdings.held_back.indices))
    assert found["accuracy_mean"] == pytest.approx(np.mean(shares))
    assert found["accuracy_p10"] == pytest.approx(np.percentile(shares, 10))
    assert found["accuracy_worst"] == pytest.approx(min(shares))


def test_unseen_clients_are_tested_on_all_they_have_and_never_train(federation):
    made = federation("evaluation.unseen_clients=0.34")
    assert len(made.population) == 4
    unseen = made.holdings.unseen
    assert not set(unseen.indices.tolist()) & set(made.population.indices.tolist())
    assert len(unseen.indices) + len(made.population.indices) == len(made.task.labels)
    found = evaluate(made, made.start)
    bind_vector(made.module, made.start)
    guesses = made.module(made.task.features[unseen.indices]).argmax(1)
    expected = float((guesses == made.task.labels[unseen.indices]).float().mean())
    assert found["accuracy_unseen"] == pytest.approx(expected)
    assert found["accuracy"] == made.task.evaluate(made.module)["accuracy"]


def test_of_an_error_the_largest_is_the_worst():
    """Four clients whose mean squared errors are 1, 4, 9 and none, because it holds nothing back."""
    objective = Regression()
    measured = np.array([[1.0, 1, 1], [4, 4, 2], [9, 9, 3]])
    labels = np.arange(3.0)[:, None]
    held = Population(np.arange(3), np.array([0, 1, 2, 2, 3]))
    with np.errstate(invalid="ignore"):
        found = over_clients(objective, measured, labels, held)
    assert found == {
        "mse_mean": pytest.approx(14 / 3),
        "mse_p90": pytest.approx(np.percentile([1, 4, 9], 90)),
        "mse_worst": 9.0,
    }
    accuracies = over_clients(Classification(), np.array([[0.0, 1], [0, 0], [0, 1]]), labels[:, 0], held)
    assert accuracies["accuracy_worst"] == 0.0


def test_block_size_changes_no_metric(tmp_path):
    overrides = [PER_CLIENT, "evaluation.unseen_clients=0.2"]
    big, small = (
        fedsim.run(parse_scenario(SMALL, "x", [*overrides, f"engine.memory_gib={size}"]), tmp_path / f"{size}")
        for size in (1.0, 1e-9)
    )
    assert big.metrics.keys() == small.metrics.keys() >= {"accuracy_worst", "loss_unseen"}
    for name, value in big.metrics.items():
        assert small.metrics[name] == pytest.approx(value, abs=0.01)


def test_a_run_records_and_states_what_was_held_out(tmp_path):
    scenario = parse_scenario(SMALL + EXAMPLE_PRIVACY, "x", [PER_CLIENT, "evaluation.unseen_clients=0.34"])
    result = fedsim.run(scenario, tmp_path / "run")
    made = build_federation(scenario)
    row = (tmp_path / "run/rounds.jsonl").read_text().splitlines()[-1]
    assert all(f'"{name}"' in row for name in ("accuracy_mean", "accuracy_p10", "accuracy_worst", "loss_unseen"))
    outside = " ".join(result.summary["outside"])
    assert f"{len(made.task.data.test)} private records that 4 clients held back" in outside
    assert f"all {len(made.holdings.unseen.indices)} private records of 2 clients that never train" in outside
    assert "count as public;" not in outside
    assert result.privacy[0]["n"] == len(made.population.indices)
    assert any("counts as public" in line for line in result.privacy[0]["assumptions"])


def test_clients_are_measured_one_by_one_and_called_by_their_names(tmp_path, monkeypatch):
    """The oracle asks the saved model about every client's records, one client after another."""
    monkeypatch.setattr(Digits, "load", owned_digits)
    natural = 'population={clients=4, partition={kind="natural"}}'
    scenario = parse_scenario(SMALL, "x", [natural, PER_CLIENT, "evaluation.unseen_clients=0.25"])
    result = fedsim.run(scenario, tmp_path / "run")
    written = json.loads((tmp_path / "run/clients.json").read_text())
    made, found = build_federation(scenario), written["metrics_by_client"]
    made.module.load_state_dict(load_file(tmp_path / "run/model.safetensors"), strict=False)
    train, held_back = made.task.data.train, made.holdings.held_back
    assert found["metric"] == "accuracy"
    assert [row["client"] for row in found["clients"]] == written["labels"]["clients"]
    for client, row in enumerate(found["clients"]):
        own = held_back.records(client)
        assert {row["client"]} == {"abcdef"[owner] for owner in train.owners[own]}
        images = torch.from_numpy(made.task.data.test.features[held_back.offsets[client] :][: len(own)])
        guessed = made.module(images).argmax(1).numpy()
        assert row["test_records"] == len(own)
        assert row["value"] == pytest.approx((guessed == train.labels[own]).mean())
    values = [row["value"] for row in found["clients"]]
    assert result.metrics["accuracy_mean"] == pytest.approx(np.mean(values))
    assert result.metrics["accuracy_worst"] == pytest.approx(min(values))
    assert "every client's own and those over clients" in " ".join(result.summary["outside"])


@pytest.mark.parametrize(
    ("overrides", "listed"), [(["population.clients=50"], True), (["population.clients=51"], False), (None, False)]
)
def test_only_few_clients_that_are_tested_are_measured_one_by_one(overrides, listed):
    iid = "population.partition={kind='iid'}"
    made = build_federation(parse_scenario(SMALL, "x", [iid] if overrides is None else [iid, PER_CLIENT, *overrides]))
    assert (client_metrics(made, made.start) is not None) == listed
    assert ("every client's own" in " ".join(outside(made))) == listed


def test_held_out_records_do_not_reach_the_model(tmp_path, monkeypatch):
    """With every held-out record replaced by noise, the model stays the same to the last bit."""
    scenario = parse_scenario(SMALL, "x", [PER_CLIENT, "evaluation.unseen_clients=0.2"])
    made = build_federation(scenario)
    fedsim.run(scenario, tmp_path / "a")
    out = np.concatenate([made.holdings.held_back.indices, made.holdings.unseen.indices])

    def spoilt(source, seed, load=Digits.load):
        data = load(source, seed)
        features = np.concatenate([data.train.features, data.test.features])
        features[out] = np.random.default_rng(0).normal(size=features[out].shape)
        first, second = np.split(features, [len(data.train)])
        return replace(data, train=replace(data.train, features=first), test=replace(data.test, features=second))

    monkeypatch.setattr(Digits, "load", spoilt)
    fedsim.run(scenario, tmp_path / "b")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second


# What cannot be


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluation.fold=2"], r"evaluation.fold = 2: must be one of evaluation.folds = none"),
        (["evaluation={folds=3, fold=4}"], r"evaluation.fold = 4"),
        (["evaluation={folds=3, test={kind='per_client'}}"], "holds back one of its folds already"),
        (["evaluation={folds=3, early_stopping={patience=1}}"], "evaluation.early_stopping"),
        ([PER_CLIENT, 'algorithm.local.schedule={kind="plateau"}'], "plateau"),
    ],
)
def test_combinations_that_cannot_work_are_refused(overrides, message):
    with pytest.raises(ScenarioError, match=message):
        parse_scenario(SMALL + EXAMPLE_PRIVACY, "x", overrides)


def test_stopping_by_held_out_records_is_free_where_nothing_is_promised():
    assert parse_scenario(SMALL, "x", [PER_CLIENT, "evaluation.early_stopping={patience=1}"])


def test_with_natural_owners_the_number_of_clients_is_known_and_checked_after_loading(monkeypatch):
    monkeypatch.setattr(Digits, "load", owned_digits)
    assert len(build_federation(parse_scenario(SMALL, "x", [NATURAL])).population) == 6
    for text, override, message in (
        (
            "",
            'cohort.sampling={kind="fixed", size=7}',
            r"size = 7: there are only training clients = 6",
        ),
        (CLIENT_PRIVACY, "privacy.client.delta=0.17", r"privacy.client.delta = 0.17: must be below 1 / training cl"),
    ):
        scenario = parse_scenario(SMALL + text, "x", [NATURAL, override])
        with pytest.raises(BadInput, match=message):
            build_federation(scenario)


def test_owners_that_are_left_out_are_counted(monkeypatch):
    monkeypatch.setattr(Digits, "load", owned_digits)
    scenario = parse_scenario(SMALL, "x", ['population={clients=4, partition={kind="natural"}}'])
    made = build_federation(scenario)
    missing = len(made.task.labels) - len(made.population.indices)
    assert made.holdings.notes == (f"2 owner(s) with {missing} training record(s) are not among the clients.",)


def test_clients_left_out_are_ten_and_written_out():
    assert parse_scenario("", "x").to_dict()["population"]["clients"] == 10
    natural = parse_scenario('[population]\npartition = { kind = "natural" }', "x")
    assert natural.population.clients is None
    assert parse_scenario(natural.to_toml(), "x") == natural


@pytest.mark.parametrize("unit", [EXAMPLE_PRIVACY, CLIENT_PRIVACY], ids=["example", "client"])
@pytest.mark.parametrize(
    ("population", "said"),
    [
        ('{partition={kind="natural"}}', False),
        ('{clients=4, partition={kind="natural"}}', True),
        ('{partition={kind="natural", min_size=2}}', True),
    ],
    ids=["all", "drawn", "large"],
)
def test_who_is_left_out_by_size_is_said_to_count_as_public(monkeypatch, tmp_path, unit, population, said):
    monkeypatch.setattr(Digits, "load", owned_digits)
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    scenario = parse_scenario(SMALL + unit, "x", ["rounds=1", f"population={population}"])
    (entry,) = fedsim.run(scenario, tmp_path / "run").privacy
    assert ("Which owners are clients counts as public" in " ".join(entry["assumptions"])) == said


def fully_owned_digits(source, seed):
    data = owned_digits(source, seed)
    return replace(data, test=replace(data.test, owners=np.arange(len(data.test)) % 3))


def test_a_model_may_not_follow_test_records_of_the_clients_that_a_guarantee_is_for(monkeypatch, tmp_path):
    monkeypatch.setattr(Digits, "load", fully_owned_digits)
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    stopping = "evaluation.early_stopping={patience=1}"
    for text, population, refused in (
        (CLIENT_PRIVACY, NATURAL, True),
        (EXAMPLE_PRIVACY, NATURAL, False),
        (CLIENT_PRIVACY, "rounds=3", False),
    ):
        scenario = parse_scenario(SMALL + text, "x", [population, stopping])
        if refused:
            with pytest.raises(BadInput, match=r"evaluation\.early_stopping: the test loss here"):
                build_federation(scenario)
        else:
            build_federation(scenario)
    scenario = parse_scenario(SMALL + CLIENT_PRIVACY, "x", [NATURAL, "rounds=1"])
    told = fedsim.run(scenario, tmp_path / "run").summary["outside"][0]
    assert "belong to the clients that train" in told
    assert "public" not in told
