"""Personalised algorithms against slow loops in plain PyTorch, client by client and step by step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

import fedsim
import fedsim.running
from fedsim.algorithms import ALGORITHMS
from fedsim.client import train_clients
from fedsim.client_store import ClientStore
from fedsim.console import print_result
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.loading import parse_scenario
from fedsim.params import Layout, bind_vector, vector_of
from fedsim.training import TRAINERS
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, batches_of, job_of, settings_of, why_not, work_of

PERSONAL = [name for name, algorithm in ALGORITHMS.items() if algorithm.personalises]
STATEFUL = [name for name in PERSONAL if name != "finetune"]
RATE, ROUNDS = 0.2, 3
COHORT = 'cohort.sampling={kind="fixed", size=4}'
DROPOUT = 'model={name="mlp", hidden=[8], dropout=0.4}'


def made_for(algorithm: str, *overrides: str, text: str = SMALL):
    return build_federation(parse_scenario(text, "small", [*settings_of(algorithm), *overrides]))


def state_of(made, folder: Path) -> torch.Tensor:
    """What the clients keep on disk ``[clients, state]``."""
    rows = np.fromfile(folder / "state/rows.f32", np.float32)
    return torch.from_numpy(rows.reshape(len(made.population), -1))


def cohorts_of(folder: Path) -> list[list[int]]:
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    ends = np.cumsum([row["cohort"] for row in rows])[:-1]
    return [part.tolist() for part in np.split(np.fromfile(folder / "cohorts.bin", "<i4"), ends)]


def global_of(made, folder: Path) -> torch.Tensor:
    return Layout.of(made.module).flatten(load_file(folder / "model.safetensors"))


@pytest.fixture
def no_report(monkeypatch):
    """Drawing the report takes longer than the run."""
    monkeypatch.setattr(fedsim.running, "build_report", lambda folder: None)


# The oracles: every one trains a client in a round with plain autograd, and gives what it reports and keeps.


def slope(made, weights: torch.Tensor, records: np.ndarray) -> torch.Tensor:
    bind_vector(made.module, weights.clone())
    made.module.train()
    loss = functional.cross_entropy(made.module(made.task.features[records]), made.task.labels[records])
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(made.module.parameters()))])


def descended(made, weights, batches, pull=0.0, anchor=None, rate=RATE):
    for records in batches:
        gradient = slope(made, weights, records)
        weights = weights - rate * (gradient + (pull * (weights - anchor) if pull else 0.0))
    return weights


def batches(made, round_: int, client: int) -> list[np.ndarray]:
    return batches_of(work_of(made, [client], round_), client)


def apart(made, round_: int, client: int, **local) -> list[np.ndarray]:
    """The batches of a client's training for itself."""
    again = work_of(made, [client], round_).again(replace(made.scenario.algorithm.local, **local))
    return batches_of(again, client)


def head_of(made) -> torch.Tensor:
    """Which values are the last layer's weight ``[10, 8]`` and bias."""
    return torch.arange(len(made.start)) >= len(made.start) - 90


def slow_ditto(made, round_, client, shared, own):
    own = made.start.clone() if own is None else own
    after = descended(made, shared, batches(made, round_, client))
    return after, descended(made, own, apart(made, round_, client), pull=0.1, anchor=shared)


def slow_fedper(made, round_, client, shared, own):
    head = head_of(made)
    start = torch.where(head, made.start if own is None else own, shared)
    after = descended(made, start, batches(made, round_, client))
    return torch.where(head, shared, after), after


def slow_fedbn(made, round_, client, shared, own):
    names = [name for name, _ in made.module.named_parameters()]
    private = {name for name in names if name.startswith("features.1.")}  # what follows the only convolution
    mask = torch.cat([torch.full((p.numel(),), name in private) for name, p in made.module.named_parameters()])
    assert int(mask.sum()) == 8
    start = torch.where(mask, made.start if own is None else own, shared)
    after = descended(made, start, batches(made, round_, client))
    return torch.where(mask, shared, after), after


def slow_local(made, round_, client, shared, own):
    return shared, descended(made, made.start if own is None else own, batches(made, round_, client))


def slow_finetune(made, round_, client, shared, own):
    return descended(made, shared, batches(made, round_, client)), None


def slow_apfl(made, round_, client, shared, own):
    v, alpha = (made.start, 0.5) if own is None else own
    w = shared
    for step, records in enumerate(batches(made, round_, client)):
        gradient = slope(made, alpha * v + (1 - alpha) * w, records)
        moved = min(1.0, max(0.0, alpha - RATE * float((v - w) @ gradient)))
        v, w = v - RATE * alpha * gradient, w - RATE * slope(made, w, records)
        alpha = moved if step == 0 else alpha
    return w, (v, alpha)


SLOW = {name: globals()[f"slow_{name}"] for name in PERSONAL}


def used(made, algorithm: str, client: int, shared: torch.Tensor, own) -> torch.Tensor:
    """The model that a client uses in the end, from the oracle's state."""
    if algorithm == "finetune":
        return descended(made, shared, apart(made, ROUNDS, client, epochs=1))
    if algorithm == "apfl":
        v, alpha = (made.start, 0.5) if own is None else own
        return alpha * v + (1 - alpha) * shared
    own = made.start if own is None else own
    if algorithm == "fedper":
        return torch.where(head_of(made), own, shared)
    if algorithm == "fedbn":
        norms = torch.zeros(len(own), dtype=torch.bool)
        norms[40:48] = True  # after the convolution's 4 kernels of 9 and 4 biases
        return torch.where(norms, own, shared)
    return own


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("algorithm", PERSONAL)
def test_three_rounds_are_those_of_the_slow_loop(algorithm, tmp_path):
    """The global model, what each client keeps, and how good each client's own model is on what it holds back."""
    made = made_for(algorithm, COHORT, f"rounds={ROUNDS}")
    result = fedsim.run(made.scenario, tmp_path / "run")
    shared, kept = made.start, {}
    for round_, cohort in enumerate(cohorts_of(tmp_path / "run"), 1):
        ends, sizes = [], made.population.sizes[cohort]
        for client in cohort:
            end, own = SLOW[algorithm](made, round_, client, shared, kept.get(client))
            ends.append(end)
            if own is not None:
                kept[client] = own
        shared = (torch.stack(ends).double() * torch.tensor(sizes / sizes.sum())[:, None]).sum(0).float()
    torch.testing.assert_close(global_of(made, tmp_path / "run"), shared, rtol=1e-4, atol=1e-5)
    if algorithm == "apfl":
        state = state_of(made, tmp_path / "run")
        alphas = [kept[client][1] if client in kept else 0.5 for client in range(6)]
        assert (0.5 + state[:, -1]).tolist() == pytest.approx(alphas, abs=1e-5)
        assert len(set(alphas)) > 2
    held_back, shares = made.holdings.held_back, []
    for client in range(6):
        bind_vector(made.module, used(made, algorithm, client, shared, kept.get(client)))
        records = held_back.records(client)
        guesses = made.module.eval()(made.task.features[records]).argmax(1)
        shares.append(float((guesses == made.task.labels[records]).double().mean()))
    assert result.metrics["accuracy_personal_mean"] == pytest.approx(np.mean(shares), abs=0.002)
    assert result.metrics["accuracy_personal_p10"] == pytest.approx(np.percentile(shares, 10), abs=0.01)
    assert result.metrics["accuracy_personal_worst"] == pytest.approx(min(shares), abs=0.01)
    written = json.loads((tmp_path / "run/clients.json").read_text())
    assert [row["personal"] for row in written["metrics_by_client"]["clients"]] == pytest.approx(shares, abs=0.01)
    gains = np.array(shares) - [row["value"] for row in written["metrics_by_client"]["clients"]]
    if algorithm in ("local", "fedper", "fedbn"):  # whose global model nobody uses
        assert written["personal"] is None
    else:
        found = written["personal"]
        assert (found["better"], found["worse"]) == ((gains > 0).sum(), (gains < 0).sum())
        edges = np.array(found["gain"]["edges"])
        assert edges == pytest.approx(-edges[::-1])
        assert found["gain"]["counts"][10] == (abs(gains) < edges[11]).sum()
    last = json.loads((tmp_path / "run/rounds.jsonl").read_text().splitlines()[-1])
    assert last["accuracy_personal_mean"] == result.metrics["accuracy_personal_mean"]


@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY], ids=["plain", "private"])
@pytest.mark.parametrize("algorithm", PERSONAL)
def test_trainers_agree_on_reports_and_on_what_is_kept(algorithm, privacy, tmp_path):
    if privacy and ALGORITHMS[algorithm].refuses_example_level:
        return
    own = [*(() if algorithm == "fedbn" else (DROPOUT,)), "algorithm.local.learning_rate=0.05"]
    found, made = {}, made_for(algorithm, *own, text=SMALL + privacy)
    for trainer in (name for name in TRAINERS if why_not(made, name) is None):
        made = made_for(algorithm, *own, f"engine.trainer={trainer}", text=SMALL + privacy)
        (tmp_path / trainer).mkdir()
        store = ClientStore(tmp_path / trainer / "state", 6, made.state_size) if made.state_size else None
        replies = [train_clients(made, job_of(made, None, round_), store) for round_ in (1, 2)]
        kept = store.read(np.arange(6)) if store else np.zeros(0)
        found[trainer] = np.concatenate([*(reply.total / reply.weight for reply in replies), kept.reshape(-1)])
    reference = found.pop("opacus")
    assert np.abs(reference).max() > 1e-3
    for trainer, values in found.items():
        np.testing.assert_allclose(values, reference, rtol=1e-3, atol=2e-4, err_msg=trainer)


@pytest.mark.parametrize("algorithm", STATEFUL)
def test_what_a_client_keeps_depends_on_no_block(algorithm, tmp_path):
    """Alone, together, and in blocks of one, side by side: the same, to float tolerance."""
    rows = []
    for number, (memory, clients) in enumerate([(1.0, [0, 1, 2, 3, 4, 5]), (1e-9, [5, 4, 3, 2, 1, 0]), (1.0, None)]):
        made = made_for(algorithm, f"engine.memory_gib={memory}")
        store = ClientStore(tmp_path / str(number), 6, made.state_size)
        for part in [clients] if clients else [[client] for client in range(6)]:
            train_clients(made, job_of(made, part), store)
        rows.append(store.read(np.arange(6)))
    assert np.abs(rows[0]).max() > 1e-3
    np.testing.assert_allclose(rows[1], rows[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows[2], rows[0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("algorithm", PERSONAL)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(algorithm, tmp_path):
    scenario = parse_scenario(SMALL, "small", [*settings_of(algorithm), COHORT, "rounds=4"])

    def stop(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    fedsim.run(scenario, tmp_path / "whole")
    fedsim.run(scenario, tmp_path / "stopped", stop)
    fedsim.resume(tmp_path / "stopped")
    for name in ("model.safetensors", "clients.json", *(["state/rows.f32"] if algorithm in STATEFUL else [])):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    ends = [json.loads((tmp_path / run / "summary.json").read_text())["metrics"] for run in ("whole", "stopped")]
    assert ends[0] == ends[1]


@pytest.mark.usefixtures("no_report")
def test_when_it_is_evaluated_changes_nothing(tmp_path):
    """Fine-tuning at every round or only at the last gives the same models."""
    metrics = []
    for every in (1, 3):
        overrides = [*settings_of("finetune"), DROPOUT, f"evaluation.every={every}"]
        metrics.append(fedsim.run(parse_scenario(SMALL, "small", overrides), tmp_path / str(every)).metrics)
    assert metrics[0] == metrics[1]


# What leaves a client, and what does not


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("algorithm", ["fedper", "fedbn", "local"])
@pytest.mark.parametrize("privacy", ["", CLIENT_PRIVACY], ids=["plain", "private"])
def test_private_parameters_are_not_sent_and_the_global_model_keeps_its_first_ones(algorithm, privacy, tmp_path):
    if privacy and algorithm == "local":
        return
    scenario = parse_scenario(SMALL + privacy, "small", settings_of(algorithm))
    made = build_federation(scenario)
    private = {"fedper": 90, "fedbn": 8, "local": len(made.start)}[algorithm]
    assert made.report_size == len(made.start) - private
    store = ClientStore(tmp_path / "state", 6, made.state_size)
    assert train_clients(made, job_of(made), store).total.shape == (made.report_size,)
    result = fedsim.run(scenario, tmp_path / "run")
    same = global_of(made, tmp_path / "run") == made.start
    own = made.layout.mask(scenario.algorithm.private(made.layout))
    assert int(own.sum()) == private
    assert same[own].all()
    assert algorithm == "local" or not same.all()
    assert result.summary["bytes"]["up"] == 4 * 6 * scenario.rounds * made.report_size
    assert {len(rows) for rows in state_of(made, tmp_path / "run")} == {private}


@pytest.mark.usefixtures("no_report")
def test_alone_nothing_is_sent_either_way(tmp_path):
    result = fedsim.run(parse_scenario(SMALL, "small", settings_of("local")), tmp_path / "run")
    assert result.summary["bytes"] == {"up": 0, "down": 0}
    assert result.metrics["accuracy_personal_mean"] > result.metrics["accuracy_mean"] + 0.2


@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY, EXAMPLE_PRIVACY + CLIENT_PRIVACY])
@pytest.mark.parametrize("algorithm", ["ditto", "apfl", "finetune"])
def test_reports_are_those_of_federated_averaging_whatever_a_client_keeps(algorithm, privacy, tmp_path):
    """Bit for bit with Ditto and fine-tuning; APFL has a loop of its own."""
    per_client = "evaluation.test={kind='per_client'}"
    plain = build_federation(parse_scenario(SMALL + privacy, "small", [per_client, "engine.trainer=vectorised"]))
    expected = train_clients(plain, job_of(plain))
    made = made_for(algorithm, "engine.trainer=vectorised", text=SMALL + privacy)
    store = ClientStore(tmp_path / "state", 6, made.state_size) if made.state_size else None
    if store is not None:
        rows = np.random.default_rng(0).standard_normal((6, made.state_size)).astype(np.float32)
        store.write(1, np.arange(6), rows)
    found = train_clients(made, job_of(made), store)
    assert found.events == expected.events
    if algorithm == "apfl":
        np.testing.assert_allclose(found.total / found.weight, expected.total / expected.weight, rtol=1e-4, atol=1e-6)
    else:
        assert found.total.tolist() == expected.total.tolist()


def test_training_for_oneself_has_batches_of_its_own():
    made = made_for("ditto")
    first, own = work_of(made, [0]), work_of(made, [0]).again(made.scenario.algorithm.local)
    assert sorted(first.records.tolist()) == sorted(own.records.tolist())
    assert first.records.tolist() != own.records.tolist()
    assert own.noise is None
    assert own.keystream.key != first.keystream.key
    assert work_of(made, [0], 3).again(made.scenario.algorithm.local).records.tolist() != own.records.tolist()


# Settings


def test_a_head_is_named_by_patterns():
    made = made_for("fedper", 'algorithm.head=["1.*", "*.bias"]', 'model={name="mlp", hidden=[8, 4]}')
    names = set(made.scenario.algorithm.private(made.layout))
    assert names == {name for name in made.layout.names if name.startswith("1.") or name.endswith(".bias")}
    with pytest.raises(BadInput, match=r'algorithm.head = "haed\*" matches nothing'):
        made_for("fedper", 'algorithm.head=["haed*"]')
    with pytest.raises(BadInput, match=r"every parameter that trains would be private.*algorithm.name = \"local\""):
        made_for("fedper", 'model={name="logistic"}')
    with pytest.raises(BadInput, match="the model has no normalisation layer that trains"):
        made_for("fedbn", 'model={name="mlp"}')


@pytest.mark.parametrize("algorithm", PERSONAL)
def test_without_records_held_back_there_is_nothing_to_test_on(algorithm):
    with pytest.raises(
        BadInput, match=rf'"{algorithm}": every client\'s own model is tested on .* kind = "per_client"'
    ):
        parse_scenario(SMALL, "small", [f"algorithm.name={algorithm}"])
    assert parse_scenario(SMALL, "small", [f"algorithm.name={algorithm}", "evaluation.folds=3"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('algorithm.aggregation={kind="median"}', 'algorithm.aggregation.kind = "median": "local" sends nothing'),
        ('communication.compression={kind="top_k"}', 'communication.compression.kind = "top_k": "local" sends nothing'),
        ('attack.kind="nan"', 'attack.kind = "nan": with algorithm.name = "local" no client reaches another'),
        ("evaluation.early_stopping={patience=2}", "evaluation.early_stopping: with algorithm.name"),
        ('algorithm.local.schedule={kind="plateau"}', 'algorithm.local.schedule.kind = "plateau": with algorithm'),
    ],
)
def test_alone_there_is_nothing_to_aggregate_or_to_follow(override, words):
    with pytest.raises(BadInput, match=words):
        parse_scenario(SMALL, "small", [*settings_of("local"), override])


@pytest.mark.parametrize("algorithm", ["fedper", "fedbn", "ditto", "apfl", "finetune"])
def test_a_cohort_of_fixed_size_stays_secret(algorithm):
    """Reports that follow private parameters tell who took part before; the others do not depend on that."""
    amplified = ['privacy.client.relation="replace-one"', 'cohort.sampling={kind="fixed", size=3}']
    overrides = [*settings_of(algorithm), *amplified]
    if algorithm in ("fedper", "fedbn"):
        with pytest.raises(BadInput, match="in a cohort of fixed size that tells"):
            parse_scenario(SMALL + CLIENT_PRIVACY, "small", overrides)
        overrides.append('privacy.client.relation="zero-out"')
    assert parse_scenario(SMALL + CLIENT_PRIVACY, "small", overrides)


@pytest.mark.usefixtures("no_report")
def test_error_feedback_and_own_models_share_a_client_s_row(tmp_path):
    """Behind the client's own model stands what compression lost; the model is that of a run without compression."""
    lossy = ['communication={compression={kind="top_k", share=0.2}, error_feedback=true}', "rounds=1"]
    for name, overrides in (("plain", ["rounds=1"]), ("lossy", lossy)):
        fedsim.run(parse_scenario(SMALL, "small", [*settings_of("ditto"), *overrides]), tmp_path / name)
    made = made_for("ditto")
    plain, both = (state_of(made, tmp_path / name) for name in ("plain", "lossy"))
    assert both.shape == (6, 2 * len(made.start))
    assert torch.equal(both[:, : len(made.start)], plain)
    assert both[:, len(made.start) :].abs().max() > 0


def test_a_run_in_which_every_own_model_diverges_says_so(tmp_path):
    overrides = [*settings_of("finetune"), "algorithm.personal_learning_rate=1e30"]
    with pytest.raises(fedsim.errors.FedsimError, match="every client's own model is NaN or infinite"):
        fedsim.run(parse_scenario(SMALL, "small", overrides), tmp_path / "run")


def test_the_statement_says_what_stays_with_the_clients(tmp_path):
    text = SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY
    for algorithm in ("fedavg", "ditto"):
        own = ["evaluation.test={kind='per_client'}", *settings_of(algorithm)]
        summary = fedsim.run(parse_scenario(text, "small", own), tmp_path / algorithm).summary
        said = [any("own model" in line for line in entry["assumptions"]) for entry in summary["privacy"]]
        assert said == [algorithm == "ditto"] * 2
        assert any("clients' own models" in line for line in summary["outside"]) == (algorithm == "ditto")
        page = (tmp_path / algorithm / "report.html").read_text()
        for shown in ("Accuracy, own model", "own models gain"):
            assert (shown in page) == (algorithm == "ditto")


@pytest.mark.parametrize("algorithm", ["local", "finetune"])
def test_own_models_come_first_and_a_global_model_that_nobody_uses_is_called_so(algorithm, tmp_path, capsys):
    result = fedsim.run(made_for(algorithm, "rounds=1").scenario, tmp_path / "run")
    print_result(result)
    first, *others = capsys.readouterr().out.splitlines()
    own = result.metrics["accuracy_personal_mean"]
    assert first.startswith(f"small: 1 of 1 rounds, accuracy_personal_mean {own:.4f}")
    assert ("accuracy 0." in first) == (algorithm == "finetune")
    page = (tmp_path / "run/report.html").read_text()
    assert f"the mean of “Accuracy” over their own models is {100 * own:.1f}%" in page
    assert ("own models gain" in page) == ("by the global model" in page) == (algorithm == "finetune")
    unused = "the one that the run began with, as nothing is ever sent"
    assert (unused in page, any(unused in line for line in others)) == ((algorithm == "local",) * 2)


def test_the_layout_knows_normalisation_layers():
    made = made_for("fedbn")
    assert made.layout.normalising == {"features.1.weight", "features.1.bias"}
    assert int(made.layout.mask(made.layout.normalising).sum()) == 8
    assert torch.equal(vector_of(made.module)[made.layout.mask({"features.1.weight"})], torch.ones(4))
