"""Attacks in a run: whose records and updates change, that clipping bounds them, and what is recorded."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim import client as client_side
from fedsim.attacking import spread, warn_of_attackers
from fedsim.attacks import ATTACKS, Attackers
from fedsim.client import train_clients
from fedsim.federation import build_federation
from fedsim.loading import ScenarioError, parse_scenario
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.outside import outside
from tests.conftest import CLIENT_PRIVACY, SMALL, job_of

HONEST = SMALL.replace("clients = 6", "clients = 8")


def attacked(kind, more=""):
    """A scenario with three attackers of eight clients."""
    return f'{HONEST}[attack]\nkind = "{kind}"\nfraction = 0.4\n{more}'


def disarmed(federation):
    """The same clients on the same poisoned records, whose updates nobody changes."""
    return replace(federation, holdings=replace(federation.holdings, attacks=None))


def total_of(federation, clients=None):
    """What the server gets from some clients in round 2."""
    return train_clients(federation, job_of(federation, clients)).total


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_round_is_the_slow_obvious_loop(federation, kind):
    """Every client trained alone, the attackers' updates changed together, weighted and summed."""
    hostile = federation(text=attacked(kind))
    attack, attacks, sizes = hostile.scenario.attack, hostile.holdings.attacks, hostile.population.sizes
    rows = np.stack([total_of(disarmed(hostile), [client]) / sizes[client] for client in range(8)])
    who = np.flatnonzero(attacks)
    assert len(who) == 3
    key = Keystream.of("reproducible", hostile.scenario.seed, 2)
    rows[who] = attack.tampered(torch.from_numpy(rows[who]).float(), Attackers(who, 8, key))
    expected = np.nan_to_num(rows).T @ sizes
    scale = np.abs(expected).max()
    np.testing.assert_allclose(total_of(hostile), expected, atol=2e-5 * scale)


@pytest.mark.parametrize("kind", ATTACKS)
def test_neither_blocks_nor_the_order_of_clients_show(federation, kind, monkeypatch):
    hostile = federation(text=attacked(kind))
    whole = total_of(hostile)
    monkeypatch.setattr(type(hostile.trainer), "block_length", lambda *_: 2)
    job = job_of(hostile)
    small = train_clients(hostile, replace(job, clients=job.clients[::-1].copy())).total
    np.testing.assert_allclose(small, whole, atol=2e-5 * np.abs(whole).max())


@pytest.mark.parametrize("kind", [kind for kind, attack in ATTACKS.items() if attack.colludes])
def test_attackers_that_collude_are_one_block_whatever_the_memory(federation, kind):
    hostile = federation("engine.memory_gib=1e-9", text=attacked(kind))
    parts = [sorted(part.tolist()) for part in client_side.blocks(hostile, np.arange(8))]
    assert np.flatnonzero(hostile.holdings.attacks).tolist() in parts
    assert sorted(client for part in parts for client in part) == list(range(8))
    assert max(len(part) for part in parts) == 3


def test_attackers_that_collude_are_all_at_one_node(federation):
    """On three nodes the round's sum is what it is on one."""
    hostile = federation(text=attacked("alie"))
    parts = spread(hostile, np.arange(8), 3)
    assert sorted(client for part in parts for client in part) == list(range(8))
    assert set(np.flatnonzero(hostile.holdings.attacks)) <= set(parts[0])
    total = sum(total_of(hostile, part) for part in parts)
    np.testing.assert_allclose(total, total_of(hostile), atol=1e-4)
    apart = spread(federation(text=attacked("sign_flip")), np.arange(8), 3)
    assert [len(part) for part in apart] == [3, 3, 2]
    assert sorted(client for part in apart for client in part) == list(range(8))


@pytest.mark.parametrize("kind", ATTACKS)
def test_only_what_attackers_train_on_is_poisoned(federation, kind):
    hostile, clean = federation(text=attacked(kind)), federation(text=HONEST)
    assert (hostile.population.indices == clean.population.indices).all()
    theirs = set(hostile.population.of_clients(hostile.holdings.attacks).indices.tolist())
    before, after = clean.holdings.data, hostile.holdings.data
    changed = (before.train.labels != after.train.labels) | (
        (before.train.features != after.train.features).reshape(len(before.train), -1).any(1)
    )
    assert set(np.flatnonzero(changed).tolist()) <= theirs
    assert changed.any() == (kind in ("label_flip", "backdoor", "model_replacement"))
    assert (before.test.labels == after.test.labels).all()
    assert (before.test.features == after.test.features).all()


def test_held_back_test_records_of_attackers_stay_clean(federation):
    text, test = attacked("label_flip"), 'evaluation.test={ kind = "per_client" }'
    hostile, clean = federation(test, text=text), federation(test, text=HONEST)
    assert (hostile.holdings.data.test.labels == clean.holdings.data.test.labels).all()
    assert (hostile.holdings.data.train.labels != clean.holdings.data.train.labels).any()


def test_the_servers_own_root_records_stay_clean(federation):
    text = "algorithm.aggregation={ kind = 'fltrust', root_records = 50 }"
    hostile, clean = federation(text, text=attacked("label_flip")), federation(text, text=HONEST)
    root = hostile.holdings.root.indices
    before, after = clean.holdings.data.train, hostile.holdings.data.train
    assert len(root) == 50
    assert (before.labels[root] == after.labels[root]).all()
    assert (before.labels != after.labels).any()


@pytest.mark.parametrize("kind", ["gaussian", "sign_flip", "model_replacement", "alie", "nan"])
def test_under_client_level_privacy_attackers_are_clipped_like_everyone(federation, kind):
    hostile = federation(text=attacked(kind, CLIENT_PRIVACY))
    attackers = np.flatnonzero(hostile.holdings.attacks)
    reply = train_clients(hostile, job_of(hostile, attackers))
    assert np.linalg.norm(reply.total) <= 3 * 0.4  # the clip norm
    assert reply.invalid == (3 if kind == "nan" else 0)


def test_attackers_do_not_learn_how_large_the_cohort_is(federation):
    """Its size is secret where it is sampled: one client more or less must not show in what attackers send."""
    hostile = federation("cohort.sampling={ kind = 'poisson', rate = 0.5 }", text=attacked("alie", CLIENT_PRIVACY))
    attackers = np.flatnonzero(hostile.holdings.attacks)
    honest = np.flatnonzero(~hostile.holdings.attacks)
    fewer, more = (total_of(hostile, [*attackers, *honest[:count]]) for count in (1, 4))
    without = [total_of(hostile, honest[:count]) for count in (1, 4)]
    np.testing.assert_allclose(fewer - without[0], more - without[1], atol=1e-6)


def test_success_is_measured_each_round_and_at_the_end(tmp_path):
    scenario = parse_scenario(attacked("backdoor"), "small", ["rounds=2", "attack.trigger.target=5"])
    ready = []
    result = fedsim.run(scenario, out=tmp_path / "run", on_ready=ready.append)
    rows = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    federation = ready[0]
    # The oracle: stamp by hand, ask the final model.
    test = federation.holdings.data.test
    images = test.features[test.labels != 5].copy()
    images[:, 0, 6:, 6:] = 1.0
    model = federation.module
    model.load_state_dict(load_file(tmp_path / "run" / "model.safetensors"))
    with torch.no_grad():
        called = model(torch.from_numpy(images)).argmax(1)
    success = float((called == 5).double().mean())
    assert result.metrics["attack_success"] == pytest.approx(success)
    assert rows[-1]["attack_success"] == pytest.approx(success)
    assert len(rows) == 2
    attack = result.summary["attack"]
    assert (attack["kind"], attack["attackers"], attack["clients"]) == ("backdoor", 3, 8)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "3 of 8 clients" in page
    assert "Attack success over the rounds" in page
    assert "trigger.target = 5" in page


def test_a_stopped_run_goes_on_to_the_same_model(tmp_path):
    """Who attacks, what they poisoned and the noise they send depend on the seed and the round alone."""
    scenario = parse_scenario(attacked("free_rider", "deviation = 0.1\n"), "small")

    def stop(row):
        if row["round"] == 2:
            raise KeyboardInterrupt

    whole = fedsim.run(scenario, tmp_path / "whole")
    fedsim.run(scenario, tmp_path / "stopped", stop)
    resumed = fedsim.resume(tmp_path / "stopped")
    assert resumed.summary["rounds"] == 3
    model = "model.safetensors"
    assert (tmp_path / "whole" / model).read_bytes() == (tmp_path / "stopped" / model).read_bytes()
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_a_round_of_nan_senders_alone_leaves_the_model_and_is_no_divergence(tmp_path, aggregation):
    overrides = ["rounds=6", 'cohort.sampling={ kind = "fixed", size = 1 }']
    overrides += [f'algorithm.aggregation={{ kind = "{aggregation}" }}']
    ready, losses = [], []
    scenario = parse_scenario(attacked("nan"), "small", overrides)
    fedsim.run(scenario, tmp_path / "run", lambda row: losses.append(row["loss"]), ready.append)
    cohorts = np.fromfile(tmp_path / "run" / "cohorts.bin", "<i4")
    hostile = ready[0].holdings.attacks[cohorts]
    assert hostile[1:].any()
    for number in range(1, 6):
        assert (losses[number] == losses[number - 1]) == hostile[number]


def test_an_attack_without_success_of_its_own_has_no_such_column(tmp_path):
    result = fedsim.run(parse_scenario(attacked("sign_flip"), "small", ["rounds=1"]), out=tmp_path / "run")
    assert "attack_success" not in result.metrics
    assert "attack_success" not in (tmp_path / "run" / "rounds.jsonl").read_text()
    assert "The attack" in (tmp_path / "run" / "report.html").read_text()


LOCAL = 'placement = "client"\n'
REPLACE = 'relation = "replace-one"\n[cohort]\nsampling = { kind = "fixed", size = 4 }\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (attacked("label_flip", "source = 3\n"), "attack.source, attack.target: give both"),
        (attacked("label_flip", "source = 3\ntarget = 3\n"), "attack.target = 3: is the source itself"),
        (attacked("label_flip", '[task]\nkind = "reconstruction"\n'), 'attack.kind = "label_flip": it changes'),
        (attacked("sign_flip", CLIENT_PRIVACY + LOCAL), 'attack.kind = "sign_flip": with privacy.client.placement'),
        (attacked("alie", CLIENT_PRIVACY + REPLACE), 'attack.kind = "alie": in a cohort of fixed size'),
        (attacked("alie", "fraction = 1.0\n").replace("fraction = 0.4\n", ""), "attack.fraction = 1.0"),
        (attacked("alie", '[asynchronous]\nkind = "fedbuff"\n'), 'attack.kind = "alie": its attackers agree'),
        (attacked("sign_flop"), '(did you mean "sign_flip"?)'),
        (attacked("sign_flip", "scael = 2.0\n"), 'attack.scael = 2.0: unknown key (did you mean "scale"?)'),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(text, message):
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(text, "small")
    assert message in str(refused.value)


def test_attacks_on_records_alone_go_with_local_privacy():
    parse_scenario(attacked("label_flip", CLIENT_PRIVACY + LOCAL), "small")


def test_whom_a_guarantee_for_clients_is_for_is_said(federation):
    """Attackers show each other what they have, so nothing is promised to them."""
    private = outside(federation(text=attacked("alie", CLIENT_PRIVACY)))
    assert any("3 clients play attackers" in line and "do not attack" in line for line in private)
    for text in (attacked("alie"), HONEST + CLIENT_PRIVACY):
        assert not any("play attackers" in line for line in outside(federation(text=text)))


@pytest.mark.parametrize(("sampling", "assumed", "told"), [("all", 1, True), ("fixed", 1, False), ("all", 2, False)])
def test_an_aggregation_that_foresees_too_few_attackers_is_told_so(sampling, assumed, told, caplog):
    """Two of eight clients attack: both in a cohort of all, one on average in a cohort of five (1.25)."""
    size = ", size=5" if sampling == "fixed" else ""
    overrides = [
        f"algorithm.aggregation={{kind='multi_krum', attackers={assumed}}}",
        f"cohort.sampling={{kind='{sampling}'{size}}}",
        "attack.fraction=0.25",
    ]
    made = build_federation(parse_scenario(attacked("sign_flip"), "small", overrides))
    notes = [note for note in made.holdings.notes if "assumes" in note]
    assert len(notes) == told
    warn_of_attackers(made)
    assert [record.message for record in caplog.records if record.name == "fedsim"] == notes
    if told:
        assert "assumes 1 attacker(s) in a cohort, and the scenario has 2 on average (2 of 8 clients)" in notes[0]
