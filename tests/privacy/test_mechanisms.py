"""Every mechanism, run: what it releases has the spread that its event says, and what it charges is what it did."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
import fedsim.federation
from fedsim.client import train_clients
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.clip_settings import AdaptiveClip
from fedsim.privacy.events import Event, compose
from fedsim.privacy.mechanism import GaussianSum, adapted, sum_noise_multiplier
from fedsim.training import TRAINERS
from fedsim.training.trainer import Trained
from fedsim.training.work import dropout_masks
from tests.conftest import (
    CLIENT_PRIVACY,
    EXAMPLE_PRIVACY,
    SMALL,
    job_of,
    local_problem,
    trainer_of,
    unclipped,
    why_not,
    work_of,
)

STILL = "algorithm.local.learning_rate=1e-12"  # updates are nothing, so that what is released is noise
LOCAL = CLIENT_PRIVACY + 'placement = "client"\n'
SECURE = 'privacy.randomness="secure"'
BANDED = CLIENT_PRIVACY + 'mechanism = "banded"\nbands = 3\n'


def run(tmp_path, text, *overrides):
    return fedsim.run(fedsim.parse_scenario(text, "small", overrides), tmp_path / "run")


def rows(result):
    return [json.loads(line) for line in (result.directory / "rounds.jsonl").read_text().splitlines()]


def moved(result):
    """How far the model went from its start, as one vector."""
    scenario = fedsim.load_scenario(result.directory / "scenario.toml")
    made = build_federation(scenario)
    return made.trainer.layout.flatten(load_file(result.directory / "model.safetensors")) - made.start


# --- adaptive clipping


@pytest.mark.parametrize(("noise", "count_noise", "expected"), [(1.0, 5.0, 1.005038), (0.7, 2.5, 0.706963)])
def test_the_share_of_noise_that_is_left_for_the_sum(noise, count_noise, expected):
    assert sum_noise_multiplier(noise, count_noise) == pytest.approx(expected, abs=5e-7)


def test_sum_and_count_together_cost_the_event():
    """An independent composition of both releases at their own sensitivities (C and 1/2) is the one event."""
    z, count_noise = 0.9, 1.7
    both = compose([(Event(sum_noise_multiplier(z, count_noise)), 1), (Event(count_noise / 0.5), 1)])
    assert epsilon(both, 1e-5) == pytest.approx(epsilon(compose([(Event(z), 1)]), 1e-5), rel=1e-9)


def test_a_count_that_would_cost_more_than_the_event_is_refused(federation):
    clipping = 'clipping = {kind = "adaptive", count_noise = 0.5}\n'
    with pytest.raises(BadInput, match=r"privacy\.client\.clipping\.count_noise"):
        federation(text=SMALL + CLIENT_PRIVACY + clipping)


def test_released_sum_and_count_have_the_spread_that_is_charged():
    """Over 4,000 releases: deviations within 6 % (5 standard errors of 1.1 %; false alarm below 1e-6)."""
    mechanism, rng = GaussianSum(Event(1.0), 0.5, count_noise=2.0), np.random.default_rng(0)
    releases = [mechanism.release(torch.zeros(1), rng, count=3.0) for _ in range(4000)]
    sums, counts = [float(r.total[0]) for r in releases], [r.count for r in releases]
    assert np.std(sums) == pytest.approx(0.5 * sum_noise_multiplier(1.0, 2.0), rel=0.06)
    assert np.std(counts) == pytest.approx(2.0, rel=0.06)
    assert np.mean(counts) == pytest.approx(3.0, abs=5 * 2 / math.sqrt(4000))
    assert abs(np.corrcoef(sums, counts)[0, 1]) < 5 / math.sqrt(4000)


@pytest.mark.parametrize("factor", [0.1, 10.0])
def test_the_client_clip_norm_converges_to_the_median_update_norm(tmp_path, factor):
    """From 0.1 and from 10 times the true median, with real updates that hardly change over the rounds."""
    still = ("algorithm.server.learning_rate=1e-12", "population.clients=40", "population.partition.min_size=1")
    made = build_federation(fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "small", still))
    work = work_of(made, round_=1)
    norms = made.trainer.train(*local_problem(made.scenario.algorithm, made.start), work).updates.norm(dim=1)
    clip = f"privacy.client.clip_norm={float(norms.median()) * factor!r}"
    clipping = 'privacy.client.clipping={kind="adaptive", quantile=0.5, learning_rate=0.3}'
    result = run(tmp_path, SMALL + CLIENT_PRIVACY, *still, clip, clipping, "rounds=60", "evaluation.every=60")
    last = np.median([row["clip_norm_client"] for row in rows(result)[-20:]])
    below = float((norms <= last).float().mean())
    assert abs(below - 0.5) < 0.13, (last, float(norms.median()))


def test_the_sign_of_the_adaptation():
    """More unclipped than the quantile: smaller; fewer: larger; a noisy share outside [0, 1] moves it no further."""
    assert adapted(1.0, 0.2, 0.5, 0.9) < 1 < adapted(1.0, 0.2, 0.5, 0.1)
    assert adapted(1.0, 0.2, 0.5, 7.0) == adapted(1.0, 0.2, 0.5, 1.0) == pytest.approx(math.exp(-0.1))
    assert adapted(1.0, 0.2, 0.5, -7.0) == pytest.approx(math.exp(0.1))


def test_the_example_clip_norm_follows_the_gradients(tmp_path):
    clipping = 'privacy.example.clipping={kind="adaptive", quantile=0.5, learning_rate=0.5}'
    ends = {}
    for clip_norm in (0.05, 50.0):
        (tmp_path / str(clip_norm)).mkdir()
        result = run(
            tmp_path / str(clip_norm),
            SMALL + EXAMPLE_PRIVACY,
            clipping,
            f"privacy.example.clip_norm={clip_norm}",
            "algorithm.server.learning_rate=1e-12",
            "rounds=40",
            "evaluation.every=40",
        )
        ends[clip_norm] = np.median([row["clip_norm_example"] for row in rows(result)[-10:]])
    assert ends[0.05] == pytest.approx(ends[50.0], rel=0.25)


@pytest.mark.parametrize("clipping", ['{kind="per_layer"}', '{kind="adaptive"}'])
def test_trainers_agree_on_every_clipping(federation, clipping):
    made = federation(f"privacy.example.clipping={clipping}", text=SMALL + EXAMPLE_PRIVACY)
    names = [name for name in TRAINERS if why_not(made, name) is None]
    assert ("native" in names) <= ("adaptive" in clipping)
    first, *others = [
        trainer_of(made, name).train(*local_problem(made.scenario.algorithm, made.start.clone()), work_of(made))
        for name in names
    ]
    assert (unclipped(first) != 0) == ("adaptive" in clipping)
    assert first.spent
    for other in others:
        torch.testing.assert_close(first.updates, other.updates, rtol=1e-3, atol=2e-5)
        # Counts are halves, plus noise that the native trainer makes in single precision.
        assert unclipped(first) == pytest.approx(unclipped(other), abs=1e-4)
        assert first.spent == other.spent


# --- noise placed at the clients


def test_local_noise_is_added_by_every_client_and_charged_to_those_who_took_part(federation, tmp_path):
    """The sum of six updates that are nothing has deviation z C sqrt(6), within 5 standard errors."""
    made = federation(STILL, text=SMALL + LOCAL)
    reply = train_clients(made, job_of(made))
    assert dict(reply.events) == {Event(1.2, 1.0, "none", "replace-one"): 6}
    size = len(made.start)
    assert reply.total.std() == pytest.approx(1.2 * 0.4 * math.sqrt(6), rel=5 / math.sqrt(2 * size))
    result = run(tmp_path, SMALL + LOCAL, "cohort.sampling={kind='poisson', rate=0.5}", "rounds=5")
    entry = result.privacy[0]
    assert entry["relation"] == "replace-one"
    assert "the server" in entry["adversary"].split(":")[1]
    counts = [round(entry["clients"][key], 6) for key in ("min", "max")]
    assert counts[0] < counts[1]


def test_local_noise_costs_twice_the_sensitivity_by_the_closed_form(tmp_path):
    """Replacing an update moves it by up to 2C: three rounds are one Gaussian at 2 sqrt(3) / z deviations."""
    from dp_accounting import get_epsilon_gaussian

    result = run(tmp_path, SMALL + LOCAL, "rounds=3")
    expected = get_epsilon_gaussian(1.2 / (2 * math.sqrt(3)), 1e-2)
    assert result.privacy[0]["epsilon"] == pytest.approx(expected, rel=1e-6)
    # the classical formula is only valid below epsilon 1: here it would promise what is not so
    classical = 2 * math.sqrt(3) * math.sqrt(2 * math.log(1.25 / 1e-2)) / 1.2
    assert result.privacy[0]["epsilon"] > 1.1 * classical


def test_a_local_target_is_met_for_every_participation(federation):
    text = SMALL + LOCAL.replace("noise_multiplier = 1.2", "target_epsilon = 6.0")
    plan = federation("rounds=4", text=text).plan.client
    assert 5.99 < epsilon(compose([(plan.event, 4)]), 1e-2) <= 6.0


# --- correlated noise


def test_banded_noise_charges_each_group_in_its_turn(tmp_path):
    sampling = 'cohort.sampling={kind="cyclic", groups=3}'
    result = run(tmp_path, SMALL + BANDED, sampling, "rounds=7")
    assert [row["cohort"] for row in rows(result)] == [2] * 7
    times = math.ceil(7 / 3)
    assert result.privacy[0]["epsilon"] == epsilon(compose([(Event(1.2), times)]), 1e-2)
    assert result.privacy[0]["steps"] == {"min": 2, "max": 3}


def test_cyclic_poisson_is_charged_with_its_rate(tmp_path):
    result = run(tmp_path, SMALL + BANDED, 'cohort.sampling={kind="cyclic", groups=3, rate=0.5}', "rounds=6")
    assert result.privacy[0]["epsilon"] == epsilon(compose([(Event(1.2, 0.5, "poisson"), 2)]), 1e-2)


@pytest.mark.parametrize("mechanism", ["banded", "tree"])
def test_released_noise_is_that_of_the_factorisation(tmp_path, mechanism):
    """The model after n rounds carries the last row of A C^-1: its deviation is within 5 standard errors."""
    from fedsim.privacy.correlated import banded_coefficients, tree_sensitivity

    text = SMALL + CLIENT_PRIVACY + (f'mechanism = "{mechanism}"\n' + ("bands = 6\n" if mechanism == "banded" else ""))
    result = run(tmp_path, text, 'cohort.sampling={kind="cyclic", groups=6}', STILL, "rounds=6", "evaluation.every=6")
    if mechanism == "banded":
        coefficients = np.zeros(6)
        coefficients[:6] = banded_coefficients(6, 6)
        matrix = np.array([[coefficients[i - j] if i - j >= 0 else 0.0 for j in range(6)] for i in range(6)])
        last = np.linalg.solve(matrix.T, np.ones(6))
        spread = np.linalg.norm(last)
    else:
        spread = tree_sensitivity(6) * math.sqrt(bin(6).count("1"))
    vector = moved(result)
    assert float(vector.std()) == pytest.approx(
        1.2 * 0.4 * spread, rel=5 / math.sqrt(2 * len(vector))
    )  # N / groups = 1


def test_banded_noise_resumes_bit_for_bit(tmp_path):
    scenario = fedsim.parse_scenario(SMALL + BANDED, "s", ['cohort.sampling={kind="cyclic", groups=3}', "rounds=6"])
    whole = fedsim.run(scenario, tmp_path / "whole")

    def stop(row):
        if row["round"] == 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fedsim.run(scenario, tmp_path / "stopped", stop)
    fedsim.resume(tmp_path / "stopped")
    model = (tmp_path / "stopped/model.safetensors").read_bytes()
    assert model == (whole.directory / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cohort.sampling={kind='poisson', rate=0.5}"], "cyclic"),
        (["cohort.sampling={kind='cyclic', groups=2}"], "at least 3 rounds apart"),
        (["cohort.sampling={kind='cyclic', groups=3}", "privacy.client.placement='client'"], "the server"),
        (["cohort.sampling={kind='cyclic', groups=3}", "privacy.client.clipping={kind='adaptive'}"], "same clip norm"),
        (["cohort.sampling={kind='cyclic', groups=3}", "privacy.client.mechanism='tree'"], "bands"),
    ],
)
def test_a_schedule_that_does_not_fit_correlated_noise_is_refused(overrides, message):
    with pytest.raises(BadInput, match=message):
        fedsim.parse_scenario(SMALL + BANDED, "s", overrides)


# --- cohorts of fixed size, projections, deltas, common noise


def test_fixed_cohorts_claim_no_amplification_unless_replace_one(federation):
    sampling = 'cohort.sampling={kind="fixed", size=2}'
    assert federation(sampling, text=SMALL + CLIENT_PRIVACY).plan.client.event == Event(1.2, 1.0, "none", "zero-out")
    replace = federation(sampling, 'privacy.client.relation="replace-one"', text=SMALL + CLIENT_PRIVACY).plan.client
    assert replace.event == Event(1.2, 2 / 6, "fixed", "replace-one")
    with pytest.raises(BadInput, match="fixed size"):
        federation(sampling, 'privacy.client.relation="add-remove"', text=SMALL + CLIENT_PRIVACY)


def test_projected_noise_is_scaled_and_labelled(tmp_path):
    """Six clients stand for a cohort of 600: the mean carries z C / 600, and the statement says projected."""
    projected = "privacy.client.projected={cohort=600, population=60000}"
    with pytest.raises(BadInput, match="delta"):  # one in a hundred of 60,000 is too many
        run(tmp_path, SMALL + CLIENT_PRIVACY, projected)
    result = run(tmp_path, SMALL + CLIENT_PRIVACY, projected, STILL, "rounds=1", "privacy.client.delta=1e-6")
    vector = moved(result)
    assert float(vector.std()) == pytest.approx(1.2 * 0.4 / 600, rel=5 / math.sqrt(2 * len(vector)))
    entry = result.privacy[0]
    assert entry["epsilon"] == epsilon(compose([(Event(1.2, 0.01, "poisson"), 1)]), 1e-6)
    assert (entry["n"], entry["delta_times_n"]) == (60000, pytest.approx(0.06))
    assert result.summary["projected"]
    assert any("Projected" in flag for flag in entry["flags"])
    assert "rojected" in (result.directory / "report.html").read_text()


def test_each_client_s_delta_can_follow_its_size(federation, tmp_path):
    text = SMALL + EXAMPLE_PRIVACY.replace("delta = 1e-4", "delta_times_n = 0.01")
    made = federation(text=text)
    np.testing.assert_allclose(made.plan.example.deltas * made.population.sizes, 0.01)
    result = run(tmp_path, text)
    expected = [
        epsilon(compose([(made.plan.example.event(c), 3 * int(made.plan.example.steps[c]))]), 0.01 / size)
        for c, size in enumerate(made.population.sizes.tolist())
    ]
    assert result.privacy[0]["epsilon"] == max(expected)
    assert (
        result.privacy[0]["delta"] == made.plan.example.deltas.max()
    )  # (largest epsilon, largest delta) holds for all
    assert result.privacy[0]["delta_times_n"] == pytest.approx(6 * 0.01)


def test_common_noise_is_that_of_the_client_that_needs_most(federation):
    text = SMALL + EXAMPLE_PRIVACY.replace("noise_multiplier = 1.1", "target_epsilon = 2.0")
    own = federation(text=text).plan.example.noise_multipliers
    common = federation('privacy.example.noise="common"', text=text).plan.example.noise_multipliers
    assert set(common) == {own.max()}


# --- the ledger over runs, and secure randomness


def test_runs_that_share_a_ledger_compose(tmp_path):
    shared = f'privacy.ledger="{tmp_path / "shared.db"}"'
    alone = fedsim.run(fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "s", []), tmp_path / "alone")
    first = fedsim.run(fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "s", [shared, SECURE]), tmp_path / "first")
    second = fedsim.run(fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "s", [shared, SECURE]), tmp_path / "second")
    assert first.privacy[0]["epsilon"] == alone.privacy[0]["epsilon"]
    assert second.privacy[0]["epsilon"] == epsilon(compose([(Event(1.2), 6)]), 1e-2)
    assert (second.directory / "ledger.db").exists()
    budget = f"privacy.client.budget={second.privacy[0]['epsilon'] * 1.01!r}"
    third = fedsim.run(fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "s", [shared, SECURE, budget]), tmp_path / "third")
    assert (third.exit_code, third.summary["rounds"]) == (3, 0)


def test_a_shared_ledger_of_another_relation_or_population_is_refused(tmp_path):
    shared = f'privacy.ledger="{tmp_path / "shared.db"}"'
    fedsim.run(fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "s", [shared, SECURE]), tmp_path / "first")
    for text, overrides in ((LOCAL, []), (CLIENT_PRIVACY, ["seed=9"])):
        with pytest.raises(BadInput, match="ledger"):
            fedsim.run(fedsim.parse_scenario(SMALL + text, "s", [shared, SECURE, *overrides]), tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_secure_randomness_differs_every_time_and_is_named(tmp_path):
    secure = 'privacy.randomness="secure"'
    text = SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY
    first = fedsim.run(fedsim.parse_scenario(text, "s", [secure]), tmp_path / "a")
    second = fedsim.run(fedsim.parse_scenario(text, "s", [secure]), tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "b/model.safetensors").read_bytes()
    assert [entry["randomness"] for entry in first.privacy] == ["secure", "secure"]
    assert first.privacy[0]["epsilon"] == second.privacy[0]["epsilon"]


def test_a_secure_run_that_is_resumed_pays_for_the_round_it_releases_again(tmp_path, monkeypatch):
    """Stopped after charging round 2: run again, it is charged once with a seed, twice with secure noise."""
    from fedsim import server

    for randomness, rounds in (("reproducible", 3), ("secure", 4)):
        path = tmp_path / randomness
        scenario = fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "s", [f'privacy.randomness="{randomness}"'])
        honest = server.release

        def power_cut(session, sums, round_, honest=honest):
            if round_ == 2:
                raise RuntimeError("power cut")
            return honest(session, sums, round_)

        monkeypatch.setattr(server, "release", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            fedsim.run(scenario, path)
        monkeypatch.setattr(server, "release", honest)
        resumed = fedsim.resume(path)
        assert resumed.privacy[0]["epsilon"] == epsilon(compose([(Event(1.2), rounds)]), 1e-2)


def test_the_adaptive_clip_settings_have_the_paper_s_defaults():
    assert (AdaptiveClip().quantile, AdaptiveClip().learning_rate) == (0.5, 0.2)


# --- what a hostile reviewer found


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (CLIENT_PRIVACY, ['privacy.ledger="x.db"'], "draw the same noise"),
        ("", ['privacy.ledger="x.db"', SECURE], "protects nothing"),
        (EXAMPLE_PRIVACY + CLIENT_PRIVACY, ['privacy.example.clipping={kind="adaptive"}'], "one client's records"),
        (EXAMPLE_PRIVACY + CLIENT_PRIVACY, ['privacy.example.noise="common"'], "size of one client"),
        (LOCAL, ['algorithm.weighting="examples"', "algorithm.weight_cap=10"], "without noise"),
    ],
)
def test_what_no_theorem_covers_is_refused(text, overrides, message):
    with pytest.raises(BadInput, match=message):
        fedsim.parse_scenario(SMALL + text, "s", overrides)


def test_a_resumed_round_has_the_cohort_that_was_charged(tmp_path, monkeypatch):
    """Near the end of a budget, a round that was charged and then lost is run again with the same clients."""
    from fedsim import server

    text = SMALL + EXAMPLE_PRIVACY + "sampling_rate = 0.2\n"
    budget = epsilon(compose([(Event(1.1, 0.2, "poisson"), 10)]), 1e-4)
    overrides = [f"privacy.example.budget={budget!r}", 'cohort.sampling={kind="poisson", rate=0.5}', "rounds=3"]
    scenario = fedsim.parse_scenario(text, "s", overrides)
    whole = fedsim.run(scenario, tmp_path / "whole")
    honest = server.release

    def power_cut(session, sums, round_):
        if round_ == whole.summary["rounds"]:
            raise RuntimeError("power cut")
        return honest(session, sums, round_)

    monkeypatch.setattr(server, "release", power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        fedsim.run(scenario, tmp_path / "stopped")
    monkeypatch.setattr(server, "release", honest)
    fedsim.resume(tmp_path / "stopped")
    model = (tmp_path / "stopped" / "model.safetensors").read_bytes()
    assert model == (whole.directory / "model.safetensors").read_bytes()


def test_secure_correlated_noise_pays_for_a_row_that_is_released_again(tmp_path):
    scenario = fedsim.parse_scenario(
        SMALL + BANDED, "s", ['cohort.sampling={kind="cyclic", groups=3}', "rounds=3", SECURE]
    )

    def stop(row):
        if row["round"] == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fedsim.run(scenario, tmp_path / "run", stop)
    resumed = fedsim.resume(tmp_path / "run")
    assert resumed.privacy[0]["epsilon"] == epsilon(compose([(Event(1.2), 2)]), 1e-2)


def test_secure_dropout_masks_are_secret(federation):
    everybody = "privacy.example.sampling_rate=1.0"  # so that the batches, and the masks' shapes, are the same
    dropout = 'model={name="mlp", dropout=0.5}'
    for randomness, same in ((SECURE, False), ('privacy.randomness="reproducible"', True)):
        made = federation(randomness, everybody, dropout, text=SMALL + EXAMPLE_PRIVACY)
        layers, shapes, longest = made.trainer.dropout_layers, made.trainer.dropout_shapes, made.population.sizes.max()
        works = (work_of(made) for _ in range(2))
        first, second = (dropout_masks(work, 0, int(longest), layers, shapes, made.device)[0] for work in works)
        assert torch.equal(first, second) == same


def test_local_privacy_does_not_tell_whose_update_was_nan(federation, monkeypatch):
    made = federation(text=SMALL + LOCAL)

    def poisoned(trainer, local, problem, work):
        return Trained(torch.full((len(work.clients), len(problem.start)), torch.nan))

    monkeypatch.setattr(type(made.trainer), "train", poisoned)
    reply = train_clients(made, job_of(made))
    assert reply.invalid == 0
    assert np.isfinite(reply.total).all()


def test_a_sum_longer_than_its_clip_norms_is_rejected(federation, tmp_path, monkeypatch):
    honest = train_clients

    def too_long(federation, job, store):
        reply = honest(federation, job)
        return type(reply)(**{**vars(reply), "total": reply.total + 1e3})

    monkeypatch.setattr("fedsim.client.train_clients", too_long)
    with pytest.raises(fedsim.FedsimError, match="can be right"):
        run(tmp_path, SMALL + CLIENT_PRIVACY)


def test_a_run_with_secret_cohorts_does_not_stop_for_a_record_budget(tmp_path):
    """Who was drawn how often is secret there, and stopping would tell of it: the run goes on with whoever is left."""
    text = SMALL + EXAMPLE_PRIVACY + "sampling_rate = 0.2\n" + CLIENT_PRIVACY
    budget = epsilon(compose([(Event(1.1, 0.2, "poisson"), 5)]), 1e-4)
    poisson = 'cohort.sampling={kind="poisson", rate=0.5}'
    result = run(tmp_path, text, f"privacy.example.budget={budget!r}", poisson, "rounds=8")
    assert (result.exit_code, result.summary["rounds"]) == (0, 8)
    assert result.privacy[0]["epsilon"] == budget


def test_the_statement_names_the_clip_norms_that_were_used(tmp_path):
    clip = ("privacy.client.clip_norm=0.001", 'privacy.client.clipping={kind="adaptive", learning_rate=0.5}')
    result = run(tmp_path, SMALL + CLIENT_PRIVACY, *clip, "rounds=4")
    used = [0.001] + [row["clip_norm_client"] for row in rows(result)]
    assert result.privacy[0]["clip_norm"] == {"min": min(used), "max": max(used)}
    assert "between 0.001 and" in (result.directory / "report.html").read_text()
