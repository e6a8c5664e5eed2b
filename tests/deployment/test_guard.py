"""A site's guard: every release charged once, no fresh release uncharged, whatever the server asks."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedsim.deployment.guard import KEPT_RUNS, Guard, Refused
from fedsim.deployment.site_settings import Policy, SiteSettings
from fedsim.deployment.wire import Order
from fedsim.errors import BudgetExhausted
from fedsim.loading import parse_scenario
from fedsim.messages import TrainReply
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.planning import make_plan

TEXT = """
rounds = 4
[population]
clients = 3
[privacy.example]
clip_norm = 1.0
noise_multiplier = 1.5
sampling_rate = 0.25
delta = 1e-5
"""
STEP = Event(1.5, 0.25, "poisson")


def plan_of(text: str = TEXT) -> PrivacyPlan:
    return make_plan(parse_scenario(text, "small"), np.array([40, 40, 40]))


def guard(folder: Path, round_: int, run: str = "run1", text: str = TEXT, limit: float = 8.0) -> Guard:
    settings = SiteSettings(name="a", server="s:1", policy=Policy(max_epsilon_example=limit))
    return Guard(folder, settings, plan_of(text), Order(run, 1, 3, round_))


def reply(value: float) -> TrainReply:
    return TrainReply(np.full(3, value), 1.0, 1, 0, Counter({STEP: 4}), 0.25, 0.0)


def spent(folder: Path) -> float:
    found = guard(folder, 1)
    result = found.ledger.spent("example", np.array([1e-5]))
    found.close()
    return result


def rounds_cost(rounds: int) -> float:
    return epsilon(compose([(STEP, 4 * rounds)]), 1e-5)


def test_an_answer_is_charged_once_and_given_again_as_it_was(tmp_path: Path):
    first = guard(tmp_path, 1)
    assert first.earlier("job") is None
    first.keep("job", reply(0.5))
    first.close()
    again = guard(tmp_path, 1)
    found = again.earlier("job")
    assert found is not None
    assert found.total.tobytes() == reply(0.5).total.tobytes()
    assert (found.events, found.weight, found.example_count) == (reply(0.5).events, 1.0, 0.25)
    again.close()
    assert spent(tmp_path) == pytest.approx(rounds_cost(1))


def test_another_job_for_an_answered_round_is_refused(tmp_path: Path):
    first = guard(tmp_path, 1)
    first.keep("job", reply(0.5))
    with pytest.raises(Refused, match="answered for another job"):
        first.earlier("another model")
    first.close()


def test_a_round_that_was_charged_is_never_computed_again(tmp_path: Path):
    for round_ in range(1, 7):
        one = guard(tmp_path, round_)
        assert one.earlier(f"job {round_}") is None
        one.keep(f"job {round_}", reply(round_))
        one.close()
    old = guard(tmp_path, 1)  # its answer is kept no longer
    with pytest.raises(Refused, match="is over"):
        old.earlier("job 1")
    old.close()
    for file in (tmp_path / "answers").glob("*/*.npz"):
        file.unlink()  # nor does deleting the answers open a way around the ledger
    last = guard(tmp_path, 6)
    with pytest.raises(Refused, match="is over"):
        last.earlier("job 6")
    last.close()
    assert spent(tmp_path) == pytest.approx(rounds_cost(6))


def test_an_older_round_than_the_newest_is_refused_even_if_it_was_skipped(tmp_path: Path):
    one = guard(tmp_path, 5)
    one.keep("job 5", reply(1.0))
    one.close()
    skipped = guard(tmp_path, 4)
    with pytest.raises(Refused, match="is over"):
        skipped.earlier("job 4")
    skipped.close()


def test_a_kill_between_writing_and_charging_is_charged_when_the_answer_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    one = guard(tmp_path, 1)
    monkeypatch.setattr(Guard, "_charge", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        one.keep("job", reply(0.5))
    one.close()
    monkeypatch.undo()
    assert spent(tmp_path) == 0.0
    again = guard(tmp_path, 1)
    found = again.earlier("job")
    assert found is not None
    assert found.total[0] == 0.5
    again.close()
    assert spent(tmp_path) == pytest.approx(rounds_cost(1))


def test_a_torn_answer_does_not_count(tmp_path: Path):
    (tmp_path / "answers" / "run1").mkdir(parents=True)
    (tmp_path / "answers" / "run1" / "00000001.part").write_bytes(b"half")
    one = guard(tmp_path, 1)
    assert one.earlier("job") is None
    one.close()


def test_runs_compose_in_the_sites_ledger_until_its_budget_is_spent(tmp_path: Path):
    limit = rounds_cost(3) * 1.0001
    for number in range(3):
        one = guard(tmp_path, 1, run=f"run{number}", limit=limit)
        one.keep("job", reply(1.0))
        one.close()
    last = guard(tmp_path, 1, run="run3", limit=limit)
    assert last.foresee(1) is not None
    with pytest.raises(BudgetExhausted):
        last.keep("job", reply(1.0))
    assert not list((tmp_path / "answers" / "run3").glob("*.npz"))  # what is not paid for is not kept
    last.close()
    assert spent(tmp_path) == pytest.approx(rounds_cost(3))


def test_local_noise_is_charged_to_the_site_as_a_client(tmp_path: Path):
    text = """
    rounds = 4
    [population]
    clients = 3
    [privacy.client]
    clip_norm = 1.0
    noise_multiplier = 3.0
    placement = "client"
    delta = 1e-5
    """
    one = guard(tmp_path, 1, text=text)
    (charge,) = one.charges(1)
    assert (charge.unit, charge.event, charge.clients.tolist()) == (
        "client",
        Event(3.0, 1.0, "none", "replace-one"),
        [0],
    )
    one.close()


def test_a_release_without_noise_is_infinite(tmp_path: Path):
    one = guard(tmp_path, 1, text="[population]\nclients = 3")
    one.keep("job", reply(1.0))
    one.close()
    assert spent(tmp_path) == np.inf


def test_the_servers_noise_is_charged_without_amplification(tmp_path: Path):
    text = """
    rounds = 4
    [population]
    clients = 3
    [cohort]
    sampling = { kind = "poisson", rate = 0.4 }
    [privacy.client]
    clip_norm = 1.0
    noise_multiplier = 3.0
    delta = 1e-5
    """
    assert plan_of(text).client.event == Event(3.0, 0.4, "poisson")
    one = guard(tmp_path, 1, text=text)
    (charge,) = one.charges(1)
    assert (charge.unit, charge.event, charge.count) == ("client", Event(3.0), 1)
    one.close()


def test_both_units_are_charged(tmp_path: Path):
    text = TEXT + '[privacy.client]\nclip_norm = 1.0\nnoise_multiplier = 3.0\nplacement = "client"\ndelta = 1e-5\n'
    one = guard(tmp_path, 1, text=text)
    assert [(charge.unit, charge.count) for charge in one.charges(1)] == [("example", 4), ("client", 1)]
    one.close()


def test_a_clock_that_was_set_back_does_not_cost_the_run_that_goes_on_its_answers(tmp_path: Path):
    for number in range(KEPT_RUNS + 1):
        other = tmp_path / "answers" / f"other{number}"
        other.mkdir(parents=True)
        os.utime(other, (4e9 + number, 4e9 + number))  # in the year 2096
    first = guard(tmp_path, 1)
    first.keep("job", reply(0.5))
    assert first.earlier("job") is not None
    first.close()
    kept = {folder.name for folder in (tmp_path / "answers").iterdir()}
    assert kept == {"run1", *(f"other{number}" for number in range(2, KEPT_RUNS + 1))}
