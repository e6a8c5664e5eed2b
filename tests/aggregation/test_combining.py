"""Aggregators inside whole runs, what they remember over a resume, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim.client import train_clients
from fedsim.collecting import collect
from fedsim.combining import Combiner
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.messages import Rows
from tests.aggregation.runs import Stop, final, model, scenario, stop_at, strategy
from tests.conftest import CLIENT_PRIVACY, SMALL, job_of

pytestmark = pytest.mark.usefixtures("no_report")

LOCAL = 'privacy.client={clip_norm=0.4, noise_multiplier=1.2, delta=1e-2, placement="client"}'


REMEMBERING = {
    "centred_clipping": ('algorithm.aggregation={kind="centred_clipping", radius=0.3}',),
    "fltrust": ('algorithm.aggregation={kind="fltrust", root_records=40}',),
    "FedAdam": strategy("FedAdam", eta=0.02),
    "FedAvgM": strategy("FedAvgM", server_momentum=0.9),
    "fedyogi": ('algorithm.server.optimizer="fedyogi"',),
}


@pytest.mark.parametrize("name", REMEMBERING)
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(tmp_path, name):
    chosen = scenario("rounds=4", *REMEMBERING[name])
    whole = model(fedsim.run(chosen, tmp_path / "whole").directory)
    with pytest.raises(Stop):
        fedsim.run(chosen, tmp_path / "stopped", stop_at(2))
    assert torch.equal(model(fedsim.resume(tmp_path / "stopped").directory), whole)


@pytest.mark.parametrize("name", ["centred_clipping", "FedAdam", "FedAvgM"])
def test_what_is_remembered_matters(tmp_path, name):
    """Without it the run goes on elsewhere, so that the test above can fail."""
    chosen = scenario("rounds=4", *REMEMBERING[name])
    whole = model(fedsim.run(chosen, tmp_path / "whole").directory)
    with pytest.raises(Stop):
        fedsim.run(chosen, tmp_path / "stopped", stop_at(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Combiner, "restore", lambda self, tensors: None)
        assert not torch.equal(model(fedsim.resume(tmp_path / "stopped").directory), whole)


def test_centred_clipping_in_the_loop_is_the_written_out_one(tmp_path):
    chosen = scenario('algorithm.aggregation={kind="centred_clipping", radius=0.3}')
    found = fedsim.run(chosen, tmp_path / "run")
    federation = build_federation(chosen)
    params, centre = federation.start.double().numpy(), np.zeros(len(federation.start))
    for round_ in (1, 2, 3):
        job = job_of(federation, round_=round_)
        job = type(job)(**{**vars(job), "params": params.astype(np.float32)})
        rows = train_clients(federation, job).rows
        ways = rows.reports.astype(np.float64) - centre
        ways *= np.minimum(1, 0.3 / np.linalg.norm(ways, axis=1))[:, None]
        centre = centre + np.average(ways, axis=0, weights=federation.population.sizes[rows.clients])
        params = params + centre
    named = load_file(found.directory / "model.safetensors")
    flat = federation.layout.flatten(named)
    torch.testing.assert_close(flat.double(), torch.from_numpy(params), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["median", "geometric_median", "centred_clipping", "fltrust"])
def test_block_size_changes_nothing_beyond_rounding(tmp_path, name):
    kind = f'algorithm.aggregation.kind="{name}"'
    big, small = final(tmp_path / "a", kind), final(tmp_path / "b", kind, "engine.memory_gib=1e-9")
    torch.testing.assert_close(big, small, rtol=1e-4, atol=1e-5)


def test_a_round_with_too_few_reports_leaves_the_model_where_it_is(tmp_path):
    """Of six clients three are expected, and some rounds have fewer than the three that a trimmed Krum needs."""
    chosen = scenario(
        "rounds=8",
        'cohort.sampling={kind="poisson", rate=0.5}',
        'algorithm.aggregation={kind="krum", attackers=0}',
    )
    directory = fedsim.run(chosen, tmp_path / "run").directory
    rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    skipped = [index for index, row in enumerate(rows) if row["cohort"] < 3]
    assert skipped
    for index in skipped[1:] if skipped[0] == 0 else skipped:
        assert rows[index]["loss"] == rows[index - 1]["loss"]
    assert len({row["loss"] for row in rows}) == 8 - len(skipped) + (skipped[0] == 0)


@pytest.mark.parametrize("kind", ["median", "strategy"])
def test_an_empty_cohort_is_no_error(tmp_path, kind):
    chosen = scenario(
        "rounds=6",
        'cohort.sampling={kind="poisson", rate=0.1}',
        *(strategy("FedAvg") if kind == "strategy" else ('algorithm.aggregation.kind="median"',)),
    )
    directory = fedsim.run(chosen, tmp_path / "run").directory
    rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    assert 0 in [row["cohort"] for row in rows]
    assert any(row["cohort"] for row in rows)


def test_clients_of_no_weight_have_no_vote():
    federation = build_federation(scenario('algorithm.aggregation.kind="median"'))
    size = len(federation.start)
    reports = np.stack([np.full(size, value, np.float32) for value in (1, 2, 50, 60, 70)])
    rows = Rows(np.arange(5), np.array([1.0, 1.0, 0, 0, 0]), reports)
    combined = Combiner(federation).combine([rows], job_of(federation))
    assert torch.equal(combined, torch.full((size,), 1.5))


def test_local_dp_may_be_aggregated_robustly(tmp_path):
    """Every report is noised before anybody sees it; what the server makes of them is post-processing."""
    result = fedsim.run(scenario(LOCAL, 'algorithm.aggregation.kind="median"'), tmp_path / "median")
    mean = fedsim.run(scenario(LOCAL), tmp_path / "mean")
    assert result.privacy[0]["epsilon"] == mean.privacy[0]["epsilon"]


CLIENT = SMALL + CLIENT_PRIVACY
FLTRUST = 'algorithm.aggregation.kind="fltrust"'


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (CLIENT, ['algorithm.aggregation.kind="median"'], 'aggregation.kind = "median": it needs every client'),
        (CLIENT, [FLTRUST], "calibrated for a sum of clipped updates"),
        (CLIENT, strategy("FedAvg"), 'algorithm.strategy = "flwr.serverapp.strategy:FedAvg": it needs every client'),
        (CLIENT, ['algorithm.aggregation.kind="norm_bound"'], "privacy.client.clip_norm bounds every update already"),
        (SMALL, [LOCAL, 'algorithm.aggregation.kind="norm_bound"'], "privacy.client.clip_norm bounds"),
        (SMALL, [FLTRUST, "evaluation.folds=3"], "declared public"),
        (SMALL, [FLTRUST, 'evaluation.test={kind="per_client"}'], "declared public"),
        (SMALL, ['algorithm.aggregation={kind="krum", attackers=2}'], "at least 7 updates, and a cohort has 6 clients"),
        (
            SMALL,
            ['algorithm.aggregation={kind="krum", attackers=1}', 'cohort.sampling={kind="poisson", rate=0.5}'],
            "at least 5 updates, and a cohort has 3 clients",
        ),
        (SMALL, ['algorithm.aggregation={kind="multi_krum", kept=7}'], "at least 7 updates"),
        (SMALL, ["algorithm.strategy_options={eta=0.1}"], "only used with algorithm.strategy"),
        (SMALL, ["algorithm.strategy=FedAdam"], 'must be "package.module:Class"'),
        (SMALL, [*strategy("FedAvg"), 'algorithm.aggregation.kind="median"'], "the strategy aggregates itself"),
        (SMALL, [*strategy("FedAvg"), "algorithm.server.learning_rate=0.5"], "leave out algorithm.server"),
    ],
)
def test_impossible_combinations_are_refused_with_the_reason(text, overrides, expected):
    with pytest.raises(BadInput) as caught:
        scenario(*overrides, text=text)
    assert expected in str(caught.value)


def test_cohorts_of_owners_are_counted_when_the_data_is_there():
    """Unseen clients never train, so that four of six are left for Krum, which needs five."""
    with pytest.raises(BadInput, match="at least 5 updates, and a cohort has 4 clients"):
        build_federation(scenario('algorithm.aggregation={kind="krum", attackers=1}', "evaluation.unseen_clients=0.34"))


def test_collected_replies_know_a_job(monkeypatch):
    """An empty round has none, and nothing is combined."""
    federation = build_federation(scenario('algorithm.aggregation.kind="median"'))
    session = type("Session", (), {"federation": federation})
    sums = collect(session, {}, [])
    assert sums.job is None
    assert Combiner(federation).combine(sums.rows, sums.job) is None
