"""What algorithms remember: across stops and NaN, what they refuse, and what the record says of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import fedsim
import fedsim.devices
from fedsim.algorithms import ALGORITHMS
from fedsim.client import train_clients
from fedsim.client_store import ClientStore
from fedsim.engines import InProcessGrid
from fedsim.errors import BadInput, FedsimError
from fedsim.federation import build_federation
from fedsim.record import RunDirectory
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

POISSON = 'cohort.sampling={kind="poisson", rate=0.6}'
BOTH = EXAMPLE_PRIVACY + CLIENT_PRIVACY


def scenario(name, *overrides, privacy=""):
    text = SMALL.replace('name = "fedavg"', f'name = "{name}"') + privacy
    return fedsim.parse_scenario(text, "small", ["algorithm.local.steps=3", POISSON, *overrides])


class Stop(Exception):
    pass


@pytest.mark.parametrize("moment", ["append_round", "save_checkpoint"])
@pytest.mark.parametrize(("name", "privacy"), [("scaffold", BOTH), ("feddyn", ""), ("mimelite", "")])
def test_a_run_that_was_killed_between_clients_and_checkpoint_goes_on_bit_for_bit(
    name, privacy, moment, tmp_path, monkeypatch
):
    """Its clients have written their state of round 4, whose checkpoint is missing."""
    chosen = scenario(name, "rounds=5", privacy=privacy)
    whole = fedsim.run(chosen, tmp_path / "whole")
    honest = getattr(RunDirectory, moment)

    def killed(self, what, progress):
        if progress.round == 4:
            raise Stop
        return honest(self, what, progress)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, moment, killed)
        with pytest.raises(Stop):
            fedsim.run(chosen, tmp_path / "killed")
    if (tmp_path / "whole/state").exists():
        assert (tmp_path / "killed/state/undo-00000004.bin").exists()
    resumed = fedsim.resume(tmp_path / "killed")
    assert resumed.summary["rounds"] == whole.summary["rounds"] == 5
    for file in ("model.safetensors", "state/rows.f32"):
        if (tmp_path / "whole" / file).exists():
            assert (tmp_path / "killed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert resumed.privacy == whole.privacy


def test_only_the_cohort_s_rows_change(tmp_path):
    made = build_federation(scenario("scaffold"))
    store = ClientStore(tmp_path / "state", 6, made.state_size)
    job = job_of(made, [1, 4])
    train_clients(made, replace(job, memory=np.full(made.sent_memory_size, 0.01, np.float32)), store)
    assert [bool(row.any()) for row in store.read(np.arange(6))] == [False, True, False, False, True, False]


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_a_client_that_diverges_keeps_what_it_had(name, tmp_path):
    made = build_federation(scenario(name))
    store = ClientStore(tmp_path / "state", 6, made.state_size)
    job = replace(job_of(made), memory=np.zeros(made.sent_memory_size, np.float32))
    train_clients(made, job, store)
    before = store.read(np.arange(6))
    made.task.features[made.population.records(2)] = float("nan")
    reply = train_clients(made, job, store)
    after = store.read(np.arange(6))
    assert reply.invalid == 1
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(after[2], before[2])
    assert all((after[c] != before[c]).any() for c in (0, 1, 3, 4, 5))


def test_under_client_level_privacy_the_share_is_the_expected_one(tmp_path):
    """SCAFFOLD's server divides by what the cohort was expected to be, whoever was drawn or answered."""
    seen = []
    chosen = scenario("scaffold", "rounds=4", privacy=CLIENT_PRIVACY)
    honest = ALGORITHMS["scaffold"].conclude

    def watched(self, aggregate, params, memory, share):
        seen.append(share)
        return honest(self, aggregate, params, memory, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ALGORITHMS["scaffold"], "conclude", watched)
        fedsim.run(chosen, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/rounds.jsonl").read_text().splitlines()]
    assert len({row["cohort"] for row in rows}) > 1
    assert seen == [pytest.approx(0.6)] * 4


LOCAL_PRIVACY = CLIENT_PRIVACY + 'placement = "client"\n'


def test_with_local_noise_the_share_is_that_of_the_reports_in_the_mean(tmp_path):
    """The server sees who answers, and averages over those: to take half of them for all would count them twice."""
    seen = []
    devices = 'devices.availability={kind="probability", probability=0.5}'
    chosen = scenario("scaffold", "rounds=4", 'cohort.sampling={kind="all"}', devices, privacy=LOCAL_PRIVACY)
    honest = ALGORITHMS["scaffold"].conclude

    def watched(self, aggregate, params, memory, share):
        seen.append(share)
        return honest(self, aggregate, params, memory, share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ALGORITHMS["scaffold"], "conclude", watched)
        fedsim.run(chosen, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/rounds.jsonl").read_text().splitlines()]
    assert min(row["dropped"] for row in rows) < max(row["dropped"] for row in rows)
    assert seen == [pytest.approx((row["cohort"] - row["dropped"]) / 6) for row in rows]


@pytest.mark.parametrize("kind", ["mean", "trimmed_mean"])
def test_the_mean_control_variate_is_that_of_clients_also_where_some_send_nan(kind, tmp_path):
    """An aggregator that sees every report leaves NaN out of its mean; in a sum it is a zero."""
    overrides = ["rounds=4", f"algorithm.aggregation.kind={kind}", 'attack={kind="nan", fraction=0.3}']
    overrides += ["algorithm.aggregation.share=0.0"] if kind == "trimmed_mean" else []
    run = fedsim.run(scenario("scaffold", *overrides), tmp_path / "run").directory
    made = build_federation(scenario("scaffold", *overrides))
    tensors, _ = RunDirectory(run).load_checkpoint()
    kept = np.fromfile(run / "state" / "rows.f32", np.float32).reshape(6, -1)[~made.holdings.attacks]
    assert len(kept) == 4
    torch.testing.assert_close(6 * tensors["memory"], torch.from_numpy(kept.sum(0)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["feddyn", "mimelite", "scaffold"])
def test_a_round_in_which_nobody_answers_changes_nothing(name, tmp_path, monkeypatch):
    """Clients are there in the first two rounds alone; the server's correction is not applied again after them."""
    there = fedsim.devices.Fleet.available
    monkeypatch.setattr(
        fedsim.devices.Fleet,
        "available",
        lambda self, clients, round_, *at: there(self, clients, round_, *at) & (round_ < 3),
    )
    found = []
    for rounds in (2, 5):
        chosen = scenario(name, f"rounds={rounds}", 'devices.availability={kind="always"}')
        run = fedsim.run(chosen, tmp_path / str(rounds)).directory
        checkpoint, progress = RunDirectory(run).load_checkpoint()
        assert progress.round == rounds
        found.append(torch.cat([checkpoint["params"], checkpoint["memory"]]))
    assert found[0][len(found[0]) // 2 :].any()
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


REFUSED = [
    ("fedsgd", ["algorithm.local.steps=3"], 'algorithm.local.steps = 3: "fedsgd" takes one step'),
    ("fedsgd", ["algorithm.local.epochs=2"], 'algorithm.local.epochs = 2: "fedsgd" takes one step'),
    ("scaffold", ['algorithm.local.optimizer="adam"'], 'optimizer = "adam": a control variate is the gradient'),
    ("scaffold", ['algorithm.weighting="examples"'], 'algorithm.weighting = "examples": the mean of the control'),
    ("feddyn", ['algorithm.weighting="examples"'], 'algorithm.weighting = "examples": what the server remembers'),
    ("feddyn", ["algorithm.alpha=0.0"], "algorithm.alpha = 0.0: "),
    ("fednova", ['algorithm.local.optimizer="rmsprop"'], "no effective number"),
    ("mimelite", ["algorithm.local.options={momentum=0.5}"], "algorithm.local.options.momentum = 0.5: "),
    ("mimelite", ['algorithm.local.optimizer="adam"'], "the server's momentum alone"),
    ("mimelite", ["algorithm.momentum=1.0"], "algorithm.momentum = 1.0: "),
    ("qfedavg", ['algorithm.weighting="examples"'], "weighted by their losses"),
]


@pytest.mark.parametrize(("name", "overrides", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_settings_that_contradict_the_algorithm_are_refused(name, overrides, reason):
    text = SMALL.replace('name = "fedavg"', f'name = "{name}"')
    with pytest.raises(BadInput) as error:
        fedsim.parse_scenario(text, "small", overrides)
    assert reason in str(error.value)


@pytest.mark.parametrize("name", ["scaffold", "mimelite"])
def test_what_is_clipped_with_the_update_has_a_public_unit(name):
    text = SMALL.replace('name = "fedavg"', f'name = "{name}"') + CLIENT_PRIVACY
    with pytest.raises(
        BadInput, match=r"algorithm.local.epochs = 1: with \[privacy.client\] .* set algorithm.local.steps"
    ):
        fedsim.parse_scenario(text, "small")
    assert fedsim.parse_scenario(text, "small", ["algorithm.local.steps=3"])


@pytest.mark.parametrize(
    "privacy", ["", EXAMPLE_PRIVACY, CLIENT_PRIVACY, BOTH], ids=["none", "example", "client", "both"]
)
def test_the_statement_says_what_is_sent_and_what_stays(privacy, tmp_path):
    result = fedsim.run(scenario("scaffold", "rounds=1", privacy=privacy), tmp_path / "run")
    outside = " ".join(result.summary["outside"])
    said = {entry["unit"]: " ".join(entry.get("assumptions") or []) for entry in result.privacy}
    assert "Each client keeps a control variate" in outside
    assert ("without the noise that protects whole clients" in outside) == ("client" in said)
    own = next(line for line in result.summary["outside"] if "Each client keeps" in line)
    assert "never" not in own
    assert ("noised gradients alone, so the guarantee for records covers it" in own) == ("example" in said)
    assert ("whoever sees all reports of the client can compute it" in own) == ("none" in said)
    assert ("each client reports how its control variate changed" in outside) == ("none" in said)
    if "example" in said:
        assert "how its control variate changed: made of noised gradients alone" in said["example"]
    if "client" in said:
        assert "in one vector, which is clipped and noised as a whole" in said["client"]
        assert "the mean of the control variates: made of the reports as they were noised" in said["client"]
    page = (result.directory / "report.html").read_text()
    assert all(sentence in page for sentence in result.summary["outside"] if "control variate" in sentence)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_what_a_client_keeps_can_be_computed_from_what_it_sent(name, monkeypatch, tmp_path):
    """As the statement says where there is no privacy: the state is a sum of what was reported."""
    made = scenario(name, "rounds=1")
    sent = []
    original = type(made.algorithm).train

    def spied(self, trainer, given, work):
        trained = original(self, trainer, given, work)
        sent.append((work.clients.copy(), trained.updates.clone(), trained.state.clone(), given.state.clone()))
        return trained

    monkeypatch.setattr(type(made.algorithm), "train", spied)
    fedsim.run(made, tmp_path / "run")
    for _, reports, after, before in sent:
        size = after.shape[1]
        scale = 1 / made.algorithm.path_length if name == "scaffold" else -made.algorithm.alpha
        torch.testing.assert_close(after, before + scale * reports[:, -size:], rtol=1e-4, atol=1e-6)
    assert sent


@pytest.mark.parametrize(("keeps_state", "said"), [(True, False), (False, True)])
def test_where_nodes_keep_nothing_the_statement_says_that_state_travels(keeps_state, said, tmp_path, monkeypatch):
    monkeypatch.setattr(InProcessGrid, "keeps_state", keeps_state)
    result = fedsim.run(scenario("scaffold", "rounds=1", privacy=BOTH), tmp_path / "run")
    assert any("goes to them with every job and back" in line for line in result.summary["outside"]) == said


def test_clients_that_are_ahead_of_every_checkpoint_are_not_taken_for_fresh_ones(tmp_path):
    """All checkpoints are torn: from the start the rounds would release other values under the same noise."""
    run = fedsim.run(scenario("scaffold", "rounds=3", privacy=BOTH), tmp_path / "run").directory
    (run / "report.html").unlink(missing_ok=True)  # else it is finished, and not looked at again
    for file in (run / "checkpoint").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FedsimError, match="is that of round 3, and no checkpoint goes with it"):
        fedsim.resume(run)


def test_a_number_of_steps_is_not_called_a_noised_gradient(tmp_path):
    result = fedsim.run(scenario("fednova", "rounds=1", privacy=EXAMPLE_PRIVACY), tmp_path / "run")
    (said,) = (line for line in result.privacy[0]["assumptions"] if "Beside its update" in line)
    assert "noised" not in said
    assert "from how many records it holds (n_i), which is treated as public" in said


def test_averaging_says_nothing_of_the_kind(tmp_path):
    result = fedsim.run(scenario("fedavg", "rounds=1", privacy=EXAMPLE_PRIVACY), tmp_path / "run")
    assert not any("Beside" in line or "Each client keeps" in line for line in result.summary["outside"])
    assert not any("Beside" in line for line in result.privacy[0]["assumptions"])


def test_fedsgd_with_dp_sgd_takes_one_accounted_step(tmp_path):
    text = SMALL.replace('name = "fedavg"', 'name = "fedsgd"') + EXAMPLE_PRIVACY
    result = fedsim.run(fedsim.parse_scenario(text, "small", ["rounds=2"]), tmp_path / "run")
    assert result.privacy[0]["steps"] == 2


def test_the_learning_rate_of_a_round_scales_what_is_reported_and_undone():
    algorithm = ALGORITHMS["scaffold"]()
    falling = fedsim.parse_scenario(
        SMALL.replace('name = "fedavg"', 'name = "scaffold"'),
        "s",
        ['algorithm.local.schedule={kind="time", decay=1.0}'],
    ).algorithm
    assert algorithm.path_length == pytest.approx(0.1)
    assert [falling.in_round(r, 9, []).path_length for r in (1, 2, 4)] == pytest.approx([0.2, 0.1, 0.05])
    update, memory = falling.in_round(2, 9, []).conclude(torch.ones(4), torch.zeros(2), torch.zeros(2), 0.5)
    torch.testing.assert_close((update, memory), (torch.ones(2), torch.full((2,), 5.0)))
