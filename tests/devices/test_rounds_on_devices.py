"""Synchronous rounds on devices: whose updates count, what drop-outs do to privacy and to clients' state, the clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import fedsim
from fedsim.algorithms import FedAvg
from fedsim.client import app as client_app
from fedsim.client import host, train_clients
from fedsim.console import print_result
from fedsim.describing import as_text, describe
from fedsim.engines import InProcessGrid
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.outings import candidates, charges, go_out
from fedsim.pace import examples_trained
from fedsim.record import RunDirectory
from fedsim.report.cost_figures import cost_panels
from fedsim.report.inputs import read_record
from fedsim.running import _open
from fedsim.seeding import Stream, generator
from fedsim.server import run_rounds
from fedsim.training.work import Held, epoch_batches
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

CLIENTS = "population.clients=12"
SLOW = 'devices.compute={kind="lognormal", median=20, sigma=1.5}'
FAILING = "devices.dropout={before_upload=0.4, after_upload=0.5}"
NOBODY = "devices.dropout={before_upload=0.999999}"
DIURNAL = 'devices.availability={kind="diurnal", low=0.0, high=0.9, period_seconds=60, spread=0.5}'
POISSON = 'cohort.sampling={kind="poisson", rate=0.5}'


def scenario(*overrides, privacy=""):
    return fedsim.parse_scenario(SMALL + privacy, "small", (CLIENTS, *overrides))


@pytest.fixture
def go(tmp_path):
    """Runs a scenario without a report; returns the session."""

    def run(made, name="run"):
        federation = made if not isinstance(made, fedsim.Scenario) else build_federation(made)
        session = _open(federation, RunDirectory.create(tmp_path / name, federation.scenario), None)
        host(federation, session.store)
        run_rounds(session, InProcessGrid(client_app))
        session.ledger.close()
        return session

    return run


def test_late_and_lost_updates_do_not_count(go):
    made = build_federation(scenario(SLOW, FAILING, "devices.deadline_seconds=6", "rounds=1"))
    session, everybody = go(made), np.arange(12)
    outing = go_out(made, 1, everybody, 0.0)
    reply = train_clients(made, job_of(made, outing.answering, round_=1))
    expected = made.start.double() + torch.from_numpy(reply.total) / reply.weight
    assert torch.allclose(session.server.params.double(), expected, atol=1e-6)
    row = session.directory.rounds()[0]
    assert 0 < row["dropped"] == 12 - len(outing.answering) < 12
    size = 4 * made.start.numel()
    assert (row["bytes_up"], row["bytes_down"]) == (size * len(outing.answering), size * 12)
    assert row["simulated_seconds"] == 6
    assert session.progress.clock == 6


def test_over_selection_takes_the_first(go):
    made = build_federation(scenario(SLOW, 'cohort.sampling={kind="fixed", size=5}', "devices.over_selection=0.6"))
    session = go(made)
    lengths = made.pace.fleet.seconds_to_train(np.arange(12), made.pace.load)
    lengths += made.pace.fleet.seconds_to_send(np.arange(12), made.pace.load)
    clock = 0.0
    for number, row in enumerate(session.directory.rounds(), 1):
        cohort = candidates(made, number, 0.0, generator(3, Stream.COHORT, number))
        outing = go_out(made, number, cohort, 0.0)
        assert (row["cohort"], row["dropped"], len(outing.answering), outing.surplus) == (8, 0, 5, 3)
        first = cohort[np.argsort(lengths[cohort])[:5]]
        assert set(outing.answering) == set(first)
        clock += lengths[first].max()
        assert row["simulated_seconds"] == pytest.approx(clock)


def test_without_client_privacy_who_is_not_there_is_not_drawn():
    here = 'devices.availability={kind="probability", probability=0.5}'
    for sampling in ('{kind="fixed", size=4}', '{kind="all"}', '{kind="poisson", rate=0.7}'):
        made = build_federation(scenario(here, f"cohort.sampling={sampling}"))
        there = made.pace.fleet.available(np.arange(12), 3, 0.0)
        cohort = candidates(made, 3, 0.0, generator(3, Stream.COHORT, 3))
        assert there[cohort].all()
        assert len(cohort) == {"fixed": 4, "all": there.sum()}.get(made.plan.sampling.kind, len(cohort))
        private = build_federation(scenario(here, f"cohort.sampling={sampling}", privacy=CLIENT_PRIVACY))
        drawn = candidates(private, 3, 0.0, generator(3, Stream.COHORT, 3))
        assert drawn.tolist() == private.plan.sampling.draw(12, 3, generator(3, Stream.COHORT, 3)).tolist()
        outing = go_out(private, 3, drawn, 0.0)
        assert outing.answering.tolist() == drawn[there[drawn]].tolist()
        assert outing.downloads == len(outing.answering)


def test_to_client_privacy_a_drop_out_is_a_zero(go):
    """With everybody gone what is released is the noise alone, over the same denominator, at the same price."""
    whole = go(scenario(POISSON, privacy=CLIENT_PRIVACY), "whole")
    alone = go(scenario(POISSON, NOBODY, privacy=CLIENT_PRIVACY), "alone")
    model = alone.federation.start.double()
    for round_ in (1, 2, 3):
        noise = generator(3, Stream.SERVER_NOISE, round_).standard_normal(len(model))
        model += torch.from_numpy(noise) * 0.4 * 1.2 / 6  # half of twelve clients are expected
    assert torch.allclose(alone.server.params.double(), model, atol=1e-6)
    rows = [session.directory.rounds() for session in (whole, alone)]
    assert [row["cohort"] for row in rows[0]] == [row["cohort"] for row in rows[1]]
    assert all(row["dropped"] == row["cohort"] and row["bytes_up"] == 0 for row in rows[1])
    assert [row["epsilon_client"] for row in rows[0]] == [row["epsilon_client"] for row in rows[1]]


@pytest.mark.parametrize("privacy", [EXAMPLE_PRIVACY, CLIENT_PRIVACY + 'placement = "client"\n'])
def test_whoever_is_asked_is_charged(go, privacy):
    made = build_federation(scenario(SLOW, FAILING, POISSON, privacy=privacy))
    cohort = made.plan.sampling.draw(12, 1, generator(3, Stream.COHORT, 1))
    outing = go_out(made, 1, cohort, 0.0)
    assert 0 < len(outing.answering) < len(cohort)
    charged = np.sort(np.concatenate([charge.clients for charge in charges(made.plan, outing)]))
    assert charged.tolist() == cohort.tolist()
    go(made)


def test_the_statement_tells_of_drop_outs(tmp_path):
    result = fedsim.run(scenario(SLOW, FAILING, privacy=CLIENT_PRIVACY), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()]
    lost, entry = sum(row["dropped"] for row in lines), result.privacy[0]
    assert entry["drop_outs"] == lost > 0
    found = result.summary["deliveries"]
    assert (found["asked"], found["dropped"], found["arrived"]) == (36, lost, 36 - lost)
    said = f"In {lost} of 36 cases a client that was asked did not deliver: {lost} failed, 0 were late and 0 were not"
    assert said in str(entry)
    assert "whether it would fail if it were drawn count as public" in str(entry["assumptions"])
    assert f"In {found['forgot']} cases a client failed after sending (after_upload)" in str(entry["assumptions"])
    assert found["forgot"] > 0
    assert result.summary["seconds"]["simulated"] == lines[-1]["simulated_seconds"] > 0
    page = (tmp_path / "run" / "report.html").read_text()
    for text in ("Accuracy against simulated time", "Accuracy against data sent", "did not deliver", "Simulated time"):
        assert text in page
    titles = [panel.title for panel in cost_panels(read_record(tmp_path / "run"))]
    assert titles == ["Accuracy against simulated time", "Accuracy against data sent"]


def test_where_cohorts_are_secret_the_statement_has_no_number_that_tells_their_size(tmp_path):
    result = fedsim.run(scenario(FAILING, POISSON, privacy=CLIENT_PRIVACY + EXAMPLE_PRIVACY), tmp_path / "run")
    found = result.summary["deliveries"]
    assert found["asked"] > found["dropped"] > 0 < found["forgot"]
    for entry in result.privacy:
        assert "drop_outs" not in entry
        said = [line for line in entry["assumptions"] if "deliver" in line or "after_upload" in line]
        assert len(said) == 2
        assert not any(character.isdigit() for line in said for character in line)
    assert "how many of it delivered" in str(result.summary["outside"])


@pytest.mark.parametrize(("privacy", "charged"), [("", False), (CLIENT_PRIVACY, True)])
def test_where_nobody_delivers_everybody_is_told(privacy, charged, tmp_path, capsys, caplog):
    result = fedsim.run(scenario(NOBODY, privacy=privacy), tmp_path / "run")
    told = [record.message for record in caplog.records if record.name == "fedsim"]
    assert len(told) == 1
    assert "In the first 3 rounds none of the 36 clients that were asked delivered" in told[0]
    assert ("spent all the same" in told[0]) == charged
    print_result(result)
    assert "dropped out: 36 of 36 that were asked" in capsys.readouterr().out.splitlines()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "36 of 36 times a client that was asked did not deliver" in page
    assert ("stated below is spent all the same" in page) == charged


def test_late_clients_and_those_that_were_not_wanted_are_told_apart(tmp_path):
    few = ('cohort.sampling={kind="fixed", size=5}', "devices.over_selection=0.5", "rounds=2")
    result = fedsim.run(scenario(SLOW, *few), tmp_path / "few")
    assert result.summary["deliveries"] | {"asked": 16, "surplus": 6, "dropped": 0} == result.summary["deliveries"]
    page = (tmp_path / "few" / "report.html").read_text()
    assert "On average 8 of them were asked to take part in a round; 5 were used and 3 left out" in page
    assert "lognormal (median = 20, sigma = 1.5)" in page
    late = fedsim.run(scenario(SLOW, "devices.deadline_seconds=6", "rounds=2"), tmp_path / "late").summary
    number = late["deliveries"]["late"]
    assert number == late["deliveries"]["dropped"] > 0
    assert f"{number} of 24 times one dropped out ({number} late)" in (tmp_path / "late" / "report.html").read_text()


def test_without_devices_no_time_is_simulated(tmp_path):
    result = fedsim.run(scenario("rounds=1", "population.clients=3"), tmp_path / "run")
    assert "simulated" not in result.summary["seconds"]
    assert "simulated_seconds" not in (tmp_path / "run" / "rounds.jsonl").read_text()
    assert cost_panels(read_record(tmp_path / "run")) == []


class Stop(Exception):
    pass


def test_the_clock_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", lambda path: None)
    made = scenario(SLOW, FAILING, DIURNAL, "rounds=8", 'cohort.sampling={kind="fixed", size=4}')

    def stop(row):
        if row["round"] == 5:
            raise Stop

    fedsim.run(made, tmp_path / "whole")
    with pytest.raises(Stop):
        fedsim.run(made, tmp_path / "stopped", stop)
    fedsim.resume(tmp_path / "stopped")
    keys = ("simulated_seconds", "cohort", "dropped", "loss", "bytes_up")
    rows = [
        [[json.loads(line)[key] for key in keys] for line in (tmp_path / run / "rounds.jsonl").read_text().splitlines()]
        for run in ("whole", "stopped")
    ]
    assert rows[0] == rows[1]
    assert len({row[1] for row in rows[0]}) > 1


def test_where_nobody_is_there_the_server_asks_again(go, tmp_path):
    file = tmp_path / "hours.csv"
    file.write_text("device,start,end\na,100,130\n")
    hours = f'devices.availability={{kind="trace", path="{file}", period_seconds=200}}'
    rows = go(scenario(hours, "devices.retry_seconds=45", "rounds=8")).directory.rounds()
    clock = [0.0, *(row["simulated_seconds"] for row in rows)]
    for before, row in zip(clock, rows, strict=False):
        assert (row["cohort"] == 12) == (100 <= before % 200 < 130)
    assert clock[:4] == [0, 45, 90, 135]  # the first chance, from 100 to 130, is missed
    assert {row["cohort"] for row in rows} == {0, 12}


@pytest.mark.parametrize("devices", [(SLOW, DIURNAL), (DIURNAL.replace("low=0.0, high=0.9", "low=1.0, high=1.0"),)])
def test_under_client_privacy_no_clock_tells_who_was_drawn(go, devices):
    """Whether somebody is late or everybody is back at once."""
    made = scenario(*devices, POISSON, "devices.deadline_seconds=7", privacy=CLIENT_PRIVACY)
    assert [row["simulated_seconds"] for row in go(made).directory.rounds()] == [7, 14, 21]


@dataclass(frozen=True, kw_only=True)
class Counting(FedAvg):
    """Clients remember how often they have trained."""

    def state_size(self, layout):
        return 1

    def train(self, trainer, given, work):
        trained = super().train(trainer, given, work)
        trained.state = given.state + 1
        return trained


def test_state_changes_as_on_real_devices(go):
    """Who fails before its update is sent has trained all the same; who fails after that has forgotten it."""
    made = build_federation(scenario(SLOW, FAILING, "rounds=2"))
    algorithm = Counting(**{name: getattr(made.scenario.algorithm, name) for name in ("local", "server")})
    made = replace(made, scenario=replace(made.scenario, algorithm=algorithm))
    session = go(made)
    expected = np.zeros(12)
    fates = set()
    for round_ in (1, 2):
        outing = go_out(made, round_, np.arange(12), 0.0)
        expected[np.setdiff1d(np.arange(12), outing.forgetful)] += 1
        fates |= {len(outing.silent) > 0, len(outing.forgetful) > 0}
        assert not set(outing.silent) & set(outing.answering)
        assert set(outing.forgetful) <= set(outing.answering)
    assert fates == {True}
    assert session.store.read(np.arange(12))[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("local", [{"epochs": 3}, {"steps": 7}, {"steps": 1}, {"steps": 40}])
def test_examples_are_counted_as_batches_are_made(local):
    made = scenario(*(f"algorithm.local.{key}={value}" for key, value in local.items()))
    sizes = np.array([1, 63, 64, 65, 200, 500])
    steps = np.full(6, local["steps"]) if "steps" in local else local["epochs"] * -(-sizes // 64)
    held = Held(np.arange(1000), np.zeros(6, np.int64), sizes)
    _, lengths = epoch_batches(held, 64, steps, lambda counts: np.arange(counts.sum(), dtype=np.uint64))
    assert examples_trained(made, sizes).tolist() == np.maximum(lengths, 0).sum(1).tolist()


@pytest.mark.parametrize("steps", [[], ["algorithm.local.steps=1"]])
def test_fedsgd_takes_time_for_all_records(steps):
    made, sizes = scenario("algorithm.name=fedsgd", "algorithm.local.batch_size=7", SLOW, *steps), np.array([5, 40])
    assert examples_trained(made, sizes).tolist() == [5, 40]


def test_clients_that_are_sent_nothing_do_not_wait_for_it():
    alone = ("algorithm.name=local", 'evaluation.test={kind="per_client"}')
    made = build_federation(scenario(*alone, 'devices.download={kind="constant", bytes_per_second=1}'))
    load, everybody = made.pace.load, np.arange(12)
    assert (load.bytes_down, load.bytes_up) == (made.bytes_down, made.bytes_up) == (0, 0)
    assert made.pace.fleet.seconds_to_train(everybody, load).max() < 10


@pytest.mark.parametrize(("sampling", "secret"), [(POISSON, True), ('cohort.sampling={kind="all"}', False)])
def test_where_who_is_drawn_is_secret_the_statement_says_that_times_tell(sampling, secret, tmp_path):
    run = fedsim.run(scenario(SLOW, sampling, "rounds=1", privacy=CLIENT_PRIVACY), tmp_path / "run")
    assert ("When each round ends tells of who was drawn" in str(run.privacy[0]["assumptions"])) == secret


def test_under_dp_sgd_examples_are_those_expected():
    made = scenario(privacy=EXAMPLE_PRIVACY + "sampling_rate = 0.25\n")
    assert examples_trained(made, np.array([100, 300])).tolist() == [100, 300]  # four steps of a quarter


@pytest.mark.parametrize(
    ("overrides", "privacy", "message"),
    [
        (("devices.over_selection=0.5",), CLIENT_PRIVACY, "by more than the one clip norm"),
        (("devices.over_selection=0.5", POISSON), "", "only cohorts of a fixed size have an excess"),
        ((DIURNAL,), CLIENT_PRIVACY, "how long a round takes tells who was drawn"),
        (("devices.dropout.before_upload=1",), "", "devices.dropout.before_upload = 1: .* less than 1"),
        (('devices.compute={kind="lognorml"}',), "", 'did you mean "lognormal"'),
        (("devices.deadline=3",), "", r'devices.deadline = 3: unknown key \(did you mean "deadline_seconds"'),
    ],
)
def test_what_cannot_be_is_one_clear_line(overrides, privacy, message):
    with pytest.raises(BadInput, match=message):
        scenario(*overrides, privacy=privacy)


def test_devices_are_described():
    described = describe(scenario(SLOW))
    speeds = build_federation(scenario(SLOW)).pace.fleet.speed
    assert described["devices"]["examples_per_second"]["median"] == pytest.approx(np.median(speeds))
    assert described["devices"]["available_at_start"] == 1
    assert "seconds of training in a round: min" in as_text(described)
    assert describe(scenario())["devices"] is None
