"""What a site answers, asked directly: its policy holds whatever the message says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedsim.data import CustomData
from fedsim.deployment import wire
from fedsim.deployment.agreement import agreed
from fedsim.deployment.site_federation import site_federation
from fedsim.deployment.site_settings import load_site
from fedsim.loading import parse_scenario
from fedsim.messages import TrainJob, pack_job, unpack_reply
from fedsim.privacy.ledger import Ledger
from fedsim.scenario import Scenario
from tests.deployment.fake_flower import Made, make
from tests.deployment.test_rounds import PRIVATE, TABLE, write_table

Change = Callable[[TrainJob], TrainJob]
ORDER = wire.Order("run1", 0, 3, 1)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "d", {"a": write_table(tmp_path / "a.csv", 0)})


def scenario_of(text: str = TABLE + PRIVATE, *overrides: str) -> Scenario:
    return agreed(parse_scenario(text, "table", overrides))


def job_of(made: Made, scenario: Scenario, round_: int = 1) -> TrainJob:
    federation = site_federation(scenario, load_site(made.site("a")), str(made.folder.parent / "a.csv"), 0, 3)
    norms = federation.plan.clip_norms()
    params = federation.start.numpy().copy()
    return TrainJob(round_, scenario.to_toml(), scenario.digest, np.array([0]), params, 0.5, norms)


def send(made: Made, job: TrainJob, order: wire.Order = ORDER) -> Message:
    message = pack_job(job, 1)
    wire.write_order(message, replace(order, round=order.round if order.round != 1 else job.round))
    message.metadata.__dict__["_message_id"] = "1"
    reply = made.flower.sites[1](message)
    assert reply is not None
    return reply


def ask(made: Made, scenario: Scenario) -> wire.Announcement:
    message = wire.pack_query(scenario.to_toml(), scenario.digest, 1, replace(ORDER, round=0))
    message.metadata.__dict__["_message_id"] = "1"
    return wire.unpack_announcement(made.flower.sites[1](message))


def charged(made: Made) -> int:
    ledger = Ledger(made.site("a") / "ledger.db", "site a", 1, "look")
    found = sum(count for _, count in ledger.composition("example", 0))
    ledger.close()
    return found


def test_the_same_job_gets_the_same_bytes_and_is_charged_once(made: Made):
    job = job_of(made, scenario_of())
    first, again = send(made, job), send(made, job)
    totals = [unpack_reply(reply, len(job.params), job.clients).total for reply in (first, again)]
    assert totals[0].any()
    assert totals[0].tobytes() == totals[1].tobytes()
    assert charged(made) == 5


def test_a_new_run_is_a_fresh_release_with_other_noise_and_is_charged(made: Made):
    job = job_of(made, scenario_of())
    first, other = send(made, job), send(made, job, replace(ORDER, run="run2"))
    totals = [unpack_reply(reply, len(job.params), job.clients).total for reply in (first, other)]
    assert totals[0].tobytes() != totals[1].tobytes()
    assert charged(made) == 10


REFUSED_JOBS: dict[str, tuple[Change, str]] = {
    "another model for the same round": (lambda job: replace(job, params=job.params + 1), "answered for another job"),
    "an older round": (lambda job: replace(job, round=1), "is over"),
    "a larger clip norm": (lambda job: replace(job, round=3, clip_norms={"example": 100.0}), "clip norm 100"),
    "no clip norm": (lambda job: replace(job, round=3, clip_norms={}), "clip norm None"),
    "another unit": (lambda job: replace(job, round=3, clip_norms={"example": 1.0, "client": 1.0}), "does not protect"),
    "somebody else": (lambda job: replace(job, round=3, clients=np.array([1])), "not for this site"),
    "two clients": (lambda job: replace(job, round=3, clients=np.array([0, 1])), "not for this site"),
    "a NaN model": (lambda job: replace(job, round=3, params=job.params * np.nan), "NaN"),
    "a wrong digest": (lambda job: replace(job, round=3, digest="0" * 12), "has digest"),
    "less noise under the old digest": (
        lambda job: replace(job, round=3, scenario=job.scenario.replace("2.0", "0.6")),
        "has digest",
    ),
    "what clients keep": (lambda job: replace(job, round=3, state=np.zeros((1, 4), np.float32)), "keeps itself"),
    "a wrong shape": (lambda job: replace(job, round=3, params=job.params[:-1]), "do not belong"),
}


@pytest.mark.parametrize("name", sorted(REFUSED_JOBS))
def test_a_job_that_is_not_the_scenarios_is_refused_and_costs_nothing(made: Made, name: str):
    change, reason = REFUSED_JOBS[name]
    job = job_of(made, scenario_of(), round_=2)
    assert not send(made, job).has_error()
    reply = send(made, change(job))
    assert reply.has_error()
    assert reason in str(reply.error.reason)
    assert charged(made) == 5


REFUSED_SCENARIOS: dict[str, tuple[str, tuple[str, ...], dict[str, str], str]] = {
    "no privacy": (TABLE, (), {}, "without_privacy"),
    "little noise": (TABLE + PRIVATE, ("privacy.example.noise_multiplier=0.4",), {}, "min_noise_multiplier"),
    "too many rounds": (TABLE + PRIVATE, ("rounds=5000",), {}, "max_epsilon_example"),
    "another scenario": (TABLE + PRIVATE, (), {"scenarios": '["0123456789ab"]'}, "agreed to"),
    "another model": (TABLE + PRIVATE, (), {"models": '["mlp"]'}, "policy.models"),
    "code": (TABLE + PRIVATE, ('model.name="os:system"',), {}, "policy.models"),
    "the server's noise": (
        TABLE + "[privacy.client]\nclip_norm=1.0\nnoise_multiplier=9.0\ndelta=1e-3\n",
        (),
        {},
        "trust_server",
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED_SCENARIOS))
def test_the_policy_refuses_with_a_reason_in_the_announcement_and_in_every_round(made: Made, name: str):
    text, overrides, values, reason = REFUSED_SCENARIOS[name]
    made.set("a", **values)
    scenario = scenario_of(text, *overrides)
    found = ask(made, scenario)
    assert reason in found.refusal
    assert found.records == 0
    if name != "too many rounds":  # of which the first would be within the budget
        job = replace(job_of(made, scenario_of()), scenario=scenario.to_toml(), digest=scenario.digest)
        reply = send(made, job)
        assert reply.has_error()
        assert reason in str(reply.error.reason)
        assert charged(made) == 0


def test_nothing_that_a_refused_scenario_names_is_imported(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef model(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    scenario = scenario_of(TABLE + PRIVATE, 'model.name="evil_module:model"')
    assert "policy.models" in ask(made, scenario).refusal
    assert not (tmp_path / "ran").exists()
    elsewhere = replace(scenario_of(), data=CustomData(source="evil_module:model"))
    message = wire.pack_query(elsewhere.to_toml(), elsewhere.digest, 1, replace(ORDER, round=0))
    message.metadata.__dict__["_message_id"] = "1"
    assert "does not fit" in str(made.flower.sites[1](message).error.reason)
    assert not (tmp_path / "ran").exists()


def test_the_agreed_scenario_has_no_paths_and_secure_randomness():
    scenario = scenario_of(TABLE + PRIVATE, 'data.path="/home/me/secret.csv"', "engine.workers=3")
    assert "secret" not in scenario.to_toml()
    assert scenario.privacy.randomness == "secure"
    assert scenario.digest == scenario_of().digest
    assert agreed(scenario) == scenario


def test_metrics_are_refused_where_the_policy_keeps_them(made: Made):
    job = job_of(made, scenario_of())
    texts = job.scenario, job.digest
    message = wire.pack_evaluation(job.params, texts, 1, ORDER)
    message.metadata.__dict__["_message_id"] = "1"
    assert "sends no metrics" in str(made.flower.sites[1](message).error.reason)
    made.set("a", send_metrics="true")
    found = wire.unpack_metrics(made.flower.sites[1](message), ("loss", "accuracy"))
    assert found["loss"] == pytest.approx(np.log(2))  # a model of zeros knows nothing


def test_an_announcement_tells_sizes_and_signature_alone(made: Made):
    found = ask(made, scenario_of())
    assert (found.records, found.held_back, found.shape, found.names) == (48, 12, (2,), ("no", "yes"))
    assert found.refusal == ""
    assert charged(made) == 0
