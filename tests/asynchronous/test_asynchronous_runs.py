"""Asynchronous runs: against synchronous ones, against one client at a time, and what they charge."""

from __future__ import annotations

import heapq
import json
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim.asynchronous.schedule import Schedule
from fedsim.asynchronous.waiting import Waiting
from fedsim.client import train_clients
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.messages import TrainJob
from fedsim.planning_scenario import plan_scenario
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.ledger import Ledger
from fedsim.record import RunDirectory
from fedsim.report import build_report
from fedsim.seeding import Stream, generator
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL

CLIENTS = "population.clients=12"
TAILED = 'devices={compute={kind="lognormal", median=20, sigma=1.5}, dropout={before_upload=0.2}}'
FEDBUFF = 'asynchronous={kind="fedbuff", buffer_size=3, concurrency=5}'
FEDASYNC = 'asynchronous={kind="fedasync", concurrency=4, mixing=0.7}'
LOCAL_PRIVACY = CLIENT_PRIVACY + 'placement = "client"\n'


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def _no_reports(monkeypatch):
    """Reports take longer than these runs; tests/report has its own."""
    monkeypatch.setattr("fedsim.running.build_report", lambda path: None)


def scenario(*overrides, privacy=""):
    return fedsim.parse_scenario(SMALL + privacy, "small", (CLIENTS, "rounds=7", "evaluation.every=7", *overrides))


def model_of(run):
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(run / "model.safetensors").items())])


def rounds_of(run):
    return [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("privacy", ["", LOCAL_PRIVACY])
def test_equal_devices_that_all_take_part_are_the_synchronous_run(tmp_path, privacy):
    even = 'devices={compute={kind="constant", examples_per_second=1e12}}'
    whole = 'asynchronous={kind="fedbuff", buffer_size=12, concurrency=12}'
    for name, overrides in (("sync", (even,)), ("async", (even, whole))):
        fedsim.run(scenario(*overrides, privacy=privacy), tmp_path / name)
    assert torch.allclose(model_of(tmp_path / "sync"), model_of(tmp_path / "async"), atol=1e-6)
    for one, two in zip(rounds_of(tmp_path / "sync"), rounds_of(tmp_path / "async"), strict=True):
        for key in ("cohort", "dropped", "bytes_up", "bytes_down", "epsilon_example", "epsilon_client"):
            assert one[key] == two[key], key
        # The slowest by how many records it holds, 1e-12 seconds each.
        assert one["simulated_seconds"] == pytest.approx(two["simulated_seconds"], rel=1e-6)


def test_the_same_with_noise_at_the_server(tmp_path):
    """Zero-out and add-remove cost the same where everybody takes part in every step."""
    even = 'devices={compute={kind="constant", examples_per_second=1e12}}'
    whole = 'asynchronous={kind="fedbuff", buffer_size=12, concurrency=12}'
    for name, overrides in (("sync", (even,)), ("async", (even, whole))):
        fedsim.run(scenario(*overrides, privacy=CLIENT_PRIVACY), tmp_path / name)
    assert torch.allclose(model_of(tmp_path / "sync"), model_of(tmp_path / "async"), atol=1e-6)
    ends = [rounds_of(tmp_path / name)[-1]["epsilon_client"] for name in ("sync", "async")]
    assert ends[0] == pytest.approx(ends[1])


def one_at_a_time(made, rounds):
    """The run by an event queue of single clients; whom the lot chose, and who fails, is read off the schedule."""
    method, plan = made.scenario.asynchronous, made.plan.client
    everybody = np.arange(len(made.population))
    load, fleet = made.pace.load, made.pace.fleet
    lengths = fleet.seconds_to_train(everybody, load) + fleet.seconds_to_send(everybody, load)
    model, queue, turns = made.start.double().numpy().copy(), [], list(made.pace.schedule.turns())
    for number, turn in enumerate(turns[:rounds], 1):
        rate = made.scenario.algorithm.local.learning_rate
        for client, begin in zip(turn.started.tolist(), turn.began.tolist(), strict=True):
            if client in turn.lost:
                continue
            job = TrainJob(number, "", made.scenario.digest, np.array([client]), np.float32(model), rate, norms(made))
            reply = train_clients(made, job)
            heapq.heappush(queue, (begin + lengths[client], client, number, reply.rows, np.float32(model)))
        total, weight, pull = np.zeros(len(model)), 0.0, np.zeros(len(model))
        for _ in range(method.buffer_size):
            end, client, began, rows, origin = heapq.heappop(queue)
            assert end <= turn.seconds + 1e-9
            late = (1 + number - began) ** -0.5
            size = 1.0 if made.weighting == "uniform" else float(made.population.sizes[client])
            update = rows.reports[0].astype(np.float64)
            if plan is not None and plan.placement == "server":
                update *= min(1.0, plan.clip_norm / np.linalg.norm(update))
            total += size * late * update
            weight += size
            pull += late * (origin - model)
        if plan is not None and plan.placement == "server":
            noise = generator(made.scenario.seed, Stream.SERVER_NOISE, number).standard_normal(len(model))
            total, weight = total + plan.clip_norm * plan.event.noise_multiplier * noise, method.buffer_size
        step = total / weight
        if method.kind == "fedasync":
            step = method.mixing * (step + pull)
        model = np.float64(np.float32(model + step))
    return torch.from_numpy(np.float32(model))


def test_staleness_is_recorded_and_the_report_tells_the_rule(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", build_report)
    made = build_federation(scenario(TAILED, FEDBUFF))
    fedsim.run(made.scenario, tmp_path / "run")
    rows = rounds_of(tmp_path / "run")
    for row, turn in zip(rows, made.pace.schedule.turns(), strict=True):
        late = [turn.number - began for began in turn.from_rounds]
        assert (row["staleness_mean"], row["staleness_max"]) == (pytest.approx(sum(late) / len(late)), max(late))
    most = max(row["staleness_max"] for row in rows)
    assert most > 0
    page = (tmp_path / "run/report.html").read_text()
    assert "The run was asynchronous (fedbuff): at most 5 worked at a time, 3 updates made a step" in page
    assert f"at most {most}." in page
    assert "were asked to take part" not in page


def norms(made):
    return made.plan.clip_norms()


@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY, CLIENT_PRIVACY, LOCAL_PRIVACY])
@pytest.mark.parametrize("method", [FEDBUFF, FEDASYNC])
def test_a_run_is_that_of_one_client_at_a_time(tmp_path, method, privacy):
    made = build_federation(scenario(TAILED, method, privacy=privacy))
    assert any(turn.staleness.any() for turn in made.pace.schedule.turns())
    result = fedsim.run(made.scenario, tmp_path / "run")
    expected, names = one_at_a_time(made, 7), dict(made.module.named_parameters())
    found, at = load_file(result.directory / "model.safetensors"), 0
    for name, parameter in names.items():
        part = expected[at : at + parameter.numel()].reshape(parameter.shape)
        assert torch.allclose(found[name], part, atol=2e-5), name
        at += parameter.numel()
    assert not torch.allclose(expected, made.start, atol=1e-3)


@pytest.mark.parametrize(("method", "privacy"), [(FEDBUFF, ""), (FEDBUFF, EXAMPLE_PRIVACY), (FEDASYNC, CLIENT_PRIVACY)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, method, privacy):
    made = scenario(TAILED, method, privacy=privacy)

    def stop(row):
        if row["round"] == 4:
            raise Stop

    whole = fedsim.run(made, tmp_path / "whole")
    with pytest.raises(Stop):
        fedsim.run(made, tmp_path / "stopped", stop)
    again = fedsim.resume(tmp_path / "stopped")
    assert torch.equal(model_of(tmp_path / "whole"), model_of(tmp_path / "stopped"))
    drop = ("seconds", "round_median")
    for one, two in zip(rounds_of(tmp_path / "whole"), rounds_of(tmp_path / "stopped"), strict=True):
        assert {k: v for k, v in one.items() if k not in drop} == {k: v for k, v in two.items() if k not in drop}
    assert whole.summary["seconds"]["simulated"] == again.summary["seconds"]["simulated"]
    assert whole.privacy[0]["epsilon"] == again.privacy[0]["epsilon"]


def test_each_client_is_charged_for_the_steps_that_its_update_is_in(tmp_path):
    made = build_federation(scenario(TAILED, FEDBUFF, privacy=CLIENT_PRIVACY))
    by_hand = Counter()
    for turn in made.pace.schedule.turns():
        assert len(set(turn.arrived.tolist())) == len(turn.arrived)
        by_hand.update(turn.arrived.tolist())
    result = fedsim.run(made.scenario, tmp_path / "run")
    ledger = Ledger(tmp_path / "run" / "ledger.db", made.population.digest(), 12, "look")
    event = Event(1.2, 1.0, "none", "zero-out")
    for client in range(12):
        assert ledger.composition("client", client) == compose([(event, by_hand[client])])
    ledger.close()
    most = max(by_hand.values())
    assert len(set(by_hand.values())) > 1
    entry = result.privacy[0]
    assert entry["epsilon"] == pytest.approx(epsilon(compose([(event, most)]), 1e-2))
    assert (entry["relation"], entry["sampling"], entry["rate"]) == ("zero-out", "none", 1.0)
    assert entry["steps"]["max"] == most
    assert "no step holds two updates of one client" in " ".join(entry["assumptions"])


def test_a_client_is_charged_before_its_update_is_released(tmp_path, monkeypatch):
    """At every step, all charges of the round are in the ledger already when what arrived is looked at."""
    seen = []
    honest = Waiting.take

    def take(self, arrived):
        ledger = Ledger(tmp_path / "run" / "ledger.db", made.population.digest(), 12, "look")
        counts = [sum(count for _, count in ledger.composition("client", client)) for client in range(12)]
        seen.append((sum(counts), len(arrived)))
        ledger.close()
        return honest(self, arrived)

    made = build_federation(scenario(TAILED, FEDBUFF, privacy=CLIENT_PRIVACY))
    monkeypatch.setattr(Waiting, "take", take)
    fedsim.run(made.scenario, tmp_path / "run")
    assert [charged for charged, _ in seen] == np.cumsum([count for _, count in seen]).tolist()


@pytest.mark.parametrize("method", [FEDBUFF, FEDASYNC])
def test_a_target_is_calibrated_for_the_steps_that_a_client_will_be_in(tmp_path, method):
    privacy = CLIENT_PRIVACY.replace("noise_multiplier = 1.2", "target_epsilon = 3.0")
    made = build_federation(scenario(TAILED, method, privacy=privacy))
    most = Counter(client for turn in made.pace.schedule.turns() for client in turn.arrived.tolist()).most_common(1)
    assert epsilon(compose([(made.plan.client.event, most[0][1])]), 1e-2) == pytest.approx(3.0, rel=1e-3)
    result = fedsim.run(made.scenario, tmp_path / "run")
    assert result.exit_code == 0
    assert 2.99 < result.privacy[0]["epsilon"] <= 3.0
    (planned,) = plan_scenario(result.directory / "scenario.toml")["privacy"]
    assert (planned["participations"], planned["epsilon"]) == (most[0][1], pytest.approx(result.privacy[0]["epsilon"]))


def test_one_client_moves_a_step_by_at_most_the_clip_norm(tmp_path, monkeypatch):
    """The noiseless sums of two runs that differ in one client's data, step by step, from the same models."""
    sums = []
    monkeypatch.setattr("fedsim.asynchronous.releasing._noised", lambda *args: sums.append(weighed(*args)) or sums[-1])

    def weighed(session, turn, weights, reports):
        assert float(weights.max()) <= 1.0
        lengths = (weights[:, None] * reports.double()).norm(dim=1)
        assert float(lengths.max()) <= 0.4 * (1 + 1e-6)
        return (weights @ reports.double()) / 3

    fedsim.run(scenario(TAILED, FEDBUFF, privacy=CLIENT_PRIVACY), tmp_path / "run")
    assert len(sums) == 7


def test_the_server_clips_what_a_client_did_not(tmp_path, monkeypatch):
    from fedsim.asynchronous import releasing

    seen = []
    made = build_federation(scenario(TAILED, FEDBUFF, privacy=CLIENT_PRIVACY))
    honest = Waiting.take

    def swollen(self, arrived):
        weights, reports, models = honest(self, arrived)
        return weights * 7, reports * 1000, models

    def spy(session, turn, weights, reports):
        result = real(session, turn, weights, reports)
        rng = generator(3, Stream.SERVER_NOISE, turn.number)
        noise = torch.from_numpy(rng.standard_normal(len(result))) * 0.4 * 1.2
        seen.append(float((result * 3 - noise).norm()))
        return result

    real = releasing._noised
    monkeypatch.setattr(Waiting, "take", swollen)
    monkeypatch.setattr(releasing, "_noised", spy)
    fedsim.run(made.scenario, tmp_path / "run")
    assert len(seen) == 7
    assert max(seen) <= 3 * 0.4 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("overrides", "privacy", "message"),
    [
        ((FEDBUFF,), "", r"asynchronous: needs \[devices\]"),
        ((TAILED, FEDBUFF, "devices.deadline_seconds=3"), "", "devices.deadline_seconds = 3.0: .* nobody waits"),
        ((TAILED, FEDBUFF, "devices.over_selection=0.5"), "", "devices.over_selection = 0.5: .* nobody waits"),
        ((TAILED, FEDBUFF, 'cohort.sampling={kind="poisson"}'), "", 'cohort.sampling.kind = "poisson": .* one by one'),
        ((TAILED, FEDBUFF, 'algorithm.aggregation={kind="median"}'), "", "has no weights for updates that are late"),
        (
            (TAILED, 'asynchronous={kind="fedbuff"}'),
            "",
            "asynchronous.concurrency = 100, the default: there are only pop",
        ),
        (
            (TAILED, 'asynchronous={kind="fedbuff", buffer_size=13, concurrency=2}'),
            "",
            "buffer_size = 13: there",
        ),
        ((TAILED, FEDBUFF, 'privacy.client.relation="add-remove"'), CLIENT_PRIVACY, 'the guarantee is "zero-out"'),
        (
            (TAILED, FEDBUFF, 'privacy.client.clipping={kind="adaptive"}'),
            CLIENT_PRIVACY,
            "rounds of different",
        ),
        ((TAILED, FEDBUFF, 'privacy.example.clipping={kind="adaptive"}'), EXAMPLE_PRIVACY, "clip norms of different"),
        ((TAILED, FEDBUFF, 'privacy.client.mechanism="tree"'), CLIENT_PRIVACY, "fast clients come back soon"),
        ((TAILED, FEDBUFF, "privacy.client.projected={cohort=50, population=500}"), CLIENT_PRIVACY, "none is"),
        ((TAILED, 'asynchronous={kind="fedbuf"}'), "", 'did you mean "fedbuff"'),
    ],
)
def test_what_cannot_be_is_one_clear_line(overrides, privacy, message):
    with pytest.raises(BadInput, match=message):
        scenario(*overrides, privacy=privacy)


EVEN = FEDBUFF.replace("concurrency=5", 'concurrency=5, staleness={kind="constant"}')


@pytest.mark.parametrize("name", ["scaffold", "feddyn", "fednova", "mimelite", "qfedavg"])
def test_what_the_server_keeps_counts_every_report_whole(name):
    """A late report that counts half would leave the server's mean control variate, say, off for ever."""
    with pytest.raises(BadInput, match=r'asynchronous.staleness.kind = "polynomial": .* use asynchronous.staleness'):
        build_federation(scenario(TAILED, FEDBUFF, f"algorithm.name={name}"))
    assert build_federation(scenario(TAILED, EVEN, f"algorithm.name={name}"))
    falling = 'algorithm.local.schedule={kind="exponential", factor=0.5}'
    if name in ("scaffold", "mimelite"):
        with pytest.raises(BadInput, match="reports of different rounds meet"):
            build_federation(scenario(TAILED, EVEN, falling, f"algorithm.name={name}"))
    else:
        assert build_federation(scenario(TAILED, EVEN, falling, f"algorithm.name={name}"))


def test_scaffold_s_server_has_the_mean_of_what_clients_kept(tmp_path):
    """Of those whose reports have arrived: none fails here, and those in flight have reported in what waits."""
    even = 'devices={compute={kind="lognormal", median=20, sigma=1.5}}'
    run = fedsim.run(scenario(even, EVEN, "algorithm.name=scaffold"), tmp_path / "run").directory
    tensors, _ = RunDirectory(run).load_checkpoint()
    size = len(tensors["params"])
    kept = torch.from_numpy(np.fromfile(run / "state" / "rows.f32", np.float32).reshape(12, size)).double().sum(0)
    made = build_federation(scenario(even, EVEN, "algorithm.name=scaffold"))
    waiting = tensors["waiting.reports"].double()[:, size:].sum(0) / made.scenario.algorithm.path_length
    assert len(tensors["waiting.reports"]) > 0
    torch.testing.assert_close(12 * tensors["memory"].double(), kept - waiting, rtol=1e-3, atol=1e-4)


def test_zero_out_may_be_said():
    made = scenario(TAILED, FEDBUFF, 'privacy.client.relation="zero-out"', privacy=CLIENT_PRIVACY)
    assert build_federation(made).plan.client.event.relation == "zero-out"


def test_no_step_has_two_updates_of_one_client():
    """A client that is far faster than the others would be back several times before the buffer is full."""
    made = build_federation(scenario('devices={compute={kind="lognormal", median=20, sigma=6}}', FEDBUFF))
    turns = list(Schedule(made.scenario.asynchronous, made.pace.fleet, made.pace.load, 60).turns())
    assert all(len(set(turn.arrived.tolist())) == len(turn.arrived) == 3 for turn in turns)
    fastest = int((made.pace.load.examples / made.pace.fleet.speed).argmin())
    assert sum(fastest in turn.arrived for turn in turns) > 20
