"""Rounds whose server needs every client's report: against clients trained one by one, and what replies must be."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim.client import train_clients
from fedsim.federation import build_federation
from fedsim.messages import MalformedMessage, Rows, TrainReply, join_rows, pack_job, pack_reply, unpack_reply
from fedsim.params import Layout
from fedsim.record import RunDirectory
from tests.conftest import EXAMPLE_PRIVACY, SMALL, job_of

LOCAL = """
[privacy.client]
clip_norm = 0.4
noise_multiplier = 1.2
delta = 1e-2
placement = "client"
"""


def final_model(run: fedsim.Result, layout: Layout) -> torch.Tensor:
    return layout.flatten(load_file(run.directory / "model.safetensors"))


@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY, LOCAL], ids=["none", "example", "local"])
def test_a_median_run_takes_the_median_of_what_each_client_alone_would_send(tmp_path, privacy):
    overrides = ("rounds=1", 'algorithm.aggregation={kind="median"}')
    scenario = fedsim.parse_scenario(SMALL + privacy, "small", overrides)
    result = fedsim.run(scenario, tmp_path / "run")
    summing = build_federation(fedsim.parse_scenario(SMALL + privacy, "small"))
    sent = [train_clients(summing, job_of(summing, [client], 1)) for client in range(6)]
    updates = np.stack([reply.total / reply.weight for reply in sent])
    expected = summing.start + torch.from_numpy(np.median(updates, axis=0)).float()
    assert (expected - summing.start).norm() > 0.01
    torch.testing.assert_close(final_model(result, summing.layout), expected, rtol=1e-5, atol=1e-6)


def test_reports_come_in_the_order_of_their_clients_whatever_the_blocks(federation):
    made = federation('algorithm.aggregation={kind="median"}', "engine.trainer=opacus")
    small = federation('algorithm.aggregation={kind="median"}', "engine.trainer=opacus", "engine.memory_gib=1e-6")
    whole, pieces = (train_clients(each, job_of(each)).rows for each in (made, small))
    assert whole is not None
    assert pieces is not None
    assert whole.clients.tolist() == pieces.clients.tolist() == list(range(6))
    np.testing.assert_array_equal(whole.weights, made.population.sizes)
    np.testing.assert_allclose(whole.reports, pieces.reports, rtol=1e-5, atol=1e-6)


def test_a_nan_report_is_left_out_and_counted(federation):
    made = federation('algorithm.aggregation={kind="median"}', 'algorithm.local={optimizer="sgd", learning_rate=1e30}')
    reply = train_clients(made, job_of(made))
    assert reply.rows is not None
    assert reply.invalid == 6 - len(reply.rows.clients) > 0
    assert np.isfinite(reply.rows.reports).all()


def test_norm_bound_scales_each_update_before_the_sum(federation):
    made, bounded = federation(), federation('algorithm.aggregation={kind="norm_bound", bound=0.3}')
    assert not bounded.stacks
    expected = 0.0
    for client, size in enumerate(made.population.sizes.tolist()):
        update = train_clients(made, job_of(made, [client])).total / size
        expected = expected + size * update * min(1.0, 0.3 / float(np.linalg.norm(update)))
    np.testing.assert_allclose(train_clients(bounded, job_of(bounded)).total, expected, rtol=1e-4, atol=1e-5)


def test_a_round_with_too_few_reports_leaves_the_model_and_is_counted(tmp_path):
    few = ('algorithm.aggregation={kind="krum", attackers=1}', 'cohort.sampling={kind="poisson", rate=0.85}')
    scenario = fedsim.parse_scenario(SMALL, "small", (*few, "rounds=8"))
    result = fedsim.run(scenario, tmp_path / "run")
    rows = RunDirectory(result.directory).rounds()
    cohorts = [row["cohort"] for row in rows]
    skipped = sum(cohort < 5 for cohort in cohorts)
    assert 0 < skipped < 8
    assert result.summary["skipped_rounds"] == skipped
    for before, row in pairwise(rows):
        assert (row["loss"] == before["loss"]) == (row["cohort"] < 5)
    assert f"In {skipped} round(s)" in (result.directory / "report.html").read_text()


ROWS = Rows(np.array([1, 5], np.int64), np.array([2.0, 1.0]), np.ones((2, 4), np.float32))


def arrived(rows: Rows) -> Rows | None:
    asked = np.array([1, 3, 5], np.int64)
    scenario = fedsim.parse_scenario(SMALL, "small")
    job = fedsim.messages.TrainJob(1, scenario.to_toml(), "abc", asked, np.zeros(4, np.float32), 0.1)
    reply = TrainReply(np.zeros(0), 3.0, 3, 1, Counter(), rows=rows)
    return unpack_reply(pack_reply(reply, pack_job(job, 7)), 4, asked, whole=True).rows


def test_rows_arrive_whole():
    rows = arrived(ROWS)
    assert rows is not None
    for name in ("clients", "weights", "reports"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(ROWS, name))
    joined = join_rows([ROWS, Rows(np.array([3]), np.array([4.0]), np.zeros((1, 4), np.float32))])
    assert joined.clients.tolist() == [1, 3, 5]
    assert joined.weights.tolist() == [2.0, 4.0, 1.0]
    assert joined.reports[1].tolist() == [0.0] * 4


@pytest.mark.parametrize(
    "rows",
    [
        Rows(ROWS.clients, ROWS.weights, np.ones((2, 3), np.float32)),
        Rows(ROWS.clients, ROWS.weights, np.ones((2, 4))),  # type: ignore[arg-type]
        Rows(ROWS.clients, ROWS.weights, np.full((2, 4), np.nan, np.float32)),
        Rows(ROWS.clients, np.array([1.0, -1.0]), ROWS.reports),
        Rows(ROWS.clients, np.array([1.0, np.inf]), ROWS.reports),
        Rows(ROWS.clients, np.ones(3), ROWS.reports),
        Rows(np.array([1, 1], np.int64), ROWS.weights, ROWS.reports),
        Rows(np.array([1, 2], np.int64), ROWS.weights, ROWS.reports),
        Rows(np.array([1, 5], np.int32), ROWS.weights, ROWS.reports),  # type: ignore[arg-type]
    ],
)
def test_malformed_rows_are_refused(rows):
    with pytest.raises(MalformedMessage):
        arrived(rows)
