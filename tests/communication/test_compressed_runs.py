"""Runs with compression: no result depends on blocks or interruptions, and the record tells the real bytes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import fedsim
import fedsim.server
from fedsim.client import train_clients
from fedsim.client_store import ClientStore
from fedsim.communication import COMPRESSIONS, drawn_words
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.privacy.keystream import Keystream
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of

FEEDBACK = ('communication.compression={kind="top_k", share=0.05}', "communication.error_feedback=true")


def parse(*overrides, text=""):
    return fedsim.parse_scenario(SMALL + text, "small", overrides)


def kept(made, folder):
    return ClientStore(folder, len(made.population), made.state_size) if made.state_size else None


@pytest.mark.parametrize("kind", COMPRESSIONS)
@pytest.mark.parametrize("trainer", ["auto", "vectorised"])
def test_what_arrives_is_each_client_s_own_update_compressed(kind, trainer):
    """The uncompressed updates one by one, each through the compression with its client's words."""
    made = build_federation(parse(f'communication.compression={{kind="{kind}"}}', f"engine.trainer={trainer}"))
    plain = build_federation(parse(f"engine.trainer={trainer}"))
    compression, expected = made.scenario.communication.compression, np.zeros(made.start.numel())
    sizes = made.population.sizes
    for client in range(6):
        row = torch.from_numpy(train_clients(plain, job_of(plain, [client])).total / sizes[client]).float()
        keystream = Keystream.of("reproducible", 3, 2)
        words = drawn_words(made.trainer, keystream, np.array([client]), compression.words(len(row)))
        expected += sizes[client] * compression.decode(compression.encode(row, words[0]), len(row)).double().numpy()
    np.testing.assert_allclose(train_clients(made, job_of(made)).total, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregation", ["mean", "median"])
@pytest.mark.parametrize("setting", [*(f'compression={{kind="{kind}"}}' for kind in COMPRESSIONS), "feedback"])
def test_no_result_depends_on_blocks(setting, aggregation, tmp_path, monkeypatch):
    """All clients in one block, and one after the other and one value at a time."""
    chosen = FEEDBACK if setting == "feedback" else (f"communication.{setting}",)
    made = build_federation(parse(*chosen, f'algorithm.aggregation={{kind="{aggregation}"}}', "engine.trainer=opacus"))
    whole, alone = kept(made, tmp_path / "whole"), kept(made, tmp_path / "alone")
    for round_ in (1, 2):
        together = train_clients(made, job_of(made, round_=round_), whole)
        with monkeypatch.context() as patch:
            patch.setattr("fedsim.communication.transport.CARRIED_VALUES", 1)
            patch.setattr("fedsim.client.blocks", lambda federation, clients: [clients[[at]] for at in range(6)])
            single = train_clients(made, job_of(made, round_=round_), alone)
        if aggregation == "median":
            assert np.array_equal(together.rows.reports, single.rows.reports)
        np.testing.assert_allclose(together.total, single.total, rtol=1e-12, atol=1e-12)
    if whole is not None:
        assert np.array_equal(whole.read(np.arange(6)), alone.read(np.arange(6)))
        assert whole.read(np.arange(6)).any()


def test_a_run_that_is_resumed_is_one_that_never_stopped(tmp_path, monkeypatch):
    """It is stopped in its third round, after the clients have written down what was lost."""
    evaluate, calls = fedsim.server.evaluate, []

    def stop(*how):
        calls.append(how)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*how)

    scenario = parse(*FEEDBACK, "rounds=4", 'cohort.sampling={kind="poisson", rate=0.6}')
    whole = fedsim.run(scenario, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(fedsim.server, "evaluate", stop)
        stopped = fedsim.run(scenario, tmp_path / "parts")
    assert (stopped.summary["status"], stopped.summary["rounds"]) == ("interrupted", 2)
    parts = fedsim.resume(tmp_path / "parts")
    files = [(result.directory / "model.safetensors").read_bytes() for result in (whole, parts)]
    assert files[0] == files[1]
    states = [(result.directory / "state" / "rows.f32").read_bytes() for result in (whole, parts)]
    assert states[0] == states[1]


def test_the_record_tells_the_bytes_of_real_messages(tmp_path):
    """610 parameters: 31 of them by 10 bits of place and 4 bytes, from each client that answered."""
    result = fedsim.run(parse(*FEEDBACK), tmp_path / "run")
    rows = [json.loads(line) for line in (result.directory / "rounds.jsonl").read_text().splitlines()]
    count = round(0.05 * 610)
    one = -(-count * 10 // 8) + 4 * count
    assert [row["bytes_up"] for row in rows] == [6 * one] * 3
    assert [row["bytes_down"] for row in rows] == [6 * 4 * 610] * 3
    assert result.summary["bytes"]["up"] == 18 * one
    assert result.summary["communication"] == {
        "compression": "top_k",
        "error_feedback": True,
        "report_bytes": one,
        "uncompressed_bytes": 2440,
        "ratio": 2440 / one,
    }
    report = (result.directory / "report.html").read_text()
    assert f"top_k: {one} bytes instead of 2.44 kB" in report
    assert "added to the client’s next update" in report
    assert "lies in the run&#39;s folder state" in report


def test_without_compression_the_report_says_nothing_of_it(tmp_path):
    result = fedsim.run(parse("rounds=1"), tmp_path / "run")
    assert "An update’s compression" not in (result.directory / "report.html").read_text()
    assert result.summary["communication"]["ratio"] == 1


@pytest.mark.parametrize("kind", [kind for kind in COMPRESSIONS if kind != "none"])
def test_a_client_that_sends_nan_is_counted_and_nobody_else_is_touched(kind):
    made = build_federation(parse(f'communication.compression={{kind="{kind}"}}', "engine.trainer=vectorised"))
    honest = train_clients(made, job_of(made, [1, 2, 3, 4, 5]))
    records = made.population.indices[made.population.offsets[0] :][: made.population.sizes[0]]
    made.task.features[torch.from_numpy(records)] = torch.nan
    reply = train_clients(made, job_of(made))
    assert (honest.invalid, reply.invalid) == (0, 1)
    np.testing.assert_allclose(reply.total, honest.total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (EXAMPLE_PRIVACY, "compressed after DP-SGD has noised them, with what earlier rounds lost"),
        (CLIENT_PRIVACY, "compressed, restored and only then clipped, with what earlier rounds lost"),
        (CLIENT_PRIVACY + 'placement="client"\n', "compresses what it has clipped and noised, with what earlier"),
    ],
)
def test_the_statement_says_why_the_guarantee_holds(text, words, tmp_path):
    result = fedsim.run(parse(*FEEDBACK, "rounds=1", text=text), tmp_path / "run")
    assert any(words in sentence for sentence in result.privacy[0]["assumptions"])
    assert any("error feedback" in sentence for sentence in result.summary["outside"])


@pytest.mark.parametrize(
    ("compression", "reason"),
    [
        ('{kind="none"}', 'nothing is lost with communication.compression.kind = "none"; leave it out'),
        ('{kind="qsgd"}', "would grow from round to round; use top_k or sign, or leave error feedback out"),
        ('{kind="int8"}', 'set communication.compression.rounding = "nearest", or leave'),
        ('{kind="random_k"}', "set communication.compression.unbiased = false, or leave"),
    ],
)
def test_error_feedback_is_refused_where_it_would_not_work(compression, reason):
    with pytest.raises(BadInput, match=r"communication\.error_feedback = true: ") as error:
        parse(f"communication.compression={compression}", "communication.error_feedback=true")
    assert reason in str(error.value)
    parse(f"communication.compression={compression}")


@pytest.mark.parametrize(
    "compression",
    ['{kind="sign"}', '{kind="fp16"}', '{kind="int8", rounding="nearest"}', '{kind="random_k", unbiased=false}'],
)
def test_error_feedback_is_there_for_what_contracts(compression):
    parse(f"communication.compression={compression}", "communication.error_feedback=true")


def test_a_misspelt_setting_is_named():
    with pytest.raises(BadInput, match=r'communication.compression.kind = "top-k": .*did you mean "top_k"'):
        parse('communication.compression={kind="top-k"}')
    with pytest.raises(BadInput, match=r"communication.compression.share = 0: .*greater than 0"):
        parse('communication.compression={kind="top_k", share=0}')
    with pytest.raises(BadInput, match=r"communication.compression.bits = 1"):
        parse('communication.compression={kind="qsgd", bits=1}')


def test_an_engine_that_keeps_nothing_is_told_apart():
    made = build_federation(parse(*FEEDBACK))
    with pytest.raises(BadInput, match="clients keep something from round to round"):
        train_clients(made, job_of(made))
