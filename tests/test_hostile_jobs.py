"""A job that no server of ours sends: it is refused before anything is computed, and the next good one is answered."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedsim import client
from fedsim.job_checks import clip_norm_range
from fedsim.messages import TrainJob, unpack_job
from fedsim.privacy.mechanism import adapted
from tests.hostile_nodes import HOSTILE, Exchange, Nodes
from tests.tampering import Case, cases, spoilt

FILLED = {f"{where} {value}" for where in ("one", "all") for value in ("5e-324", "1e+30", "1e+38", "-1e+38", "3.4e+38")}
SCALED = {"reversed", "negated", "shifted", "times 1000", "times 1e+09", "times 1e+25", "float32 in bytes"}
WORDS = {"empty", "cut", "twice", "control characters", "nested", "null", "nested TOML", "digits", "path", "NaN"}
SHORTER = {"empty", "one", "longer", "shorter"}
# What a server of ours might send: another model, other clients of the scenario, a later round, a smaller step. The
# scenario's text is not read where its digest is that of the federation that is there already.
PLAUSIBLE = {
    "arrays.params": FILLED | SCALED,
    "arrays.memory": FILLED | SCALED,
    "arrays.state": FILLED | SCALED | {"empty"},
    "arrays.clients": {"int64 in bytes", "reversed", "shifted", "one 0", "one 1", "one 4", "one 5"} | SHORTER,
    "config.round": {"1", "one more"},
    "config.learning_rate": {"5e-324"},
    "config.name": WORDS,
    "config.scenario": WORDS,
}


def plausible(case: Case) -> bool:
    """Whether a server of ours might have sent it."""
    field, _, what = case.name.partition(": ")
    return what in PLAUSIBLE.get(field, ())


def judge_job(exchange: Exchange, case: Case) -> str | None:
    """What is wrong with how a client took a spoilt job; None if all is right."""
    sent, calls = exchange.sent[HOSTILE], list[int]()
    message = Message(spoilt(sent.content, case), dst_node_id=HOSTILE, message_type="train", group_id="1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "train_one_block", lambda *given: calls.append(1))
        reply = Nodes()._deliver(message)
    # What is put in the place of training gives an error; where there is no client, there is nothing to train.
    said = reply.error.reason if reply.has_error() else "an answer"
    reason = said.strip().splitlines()[-1]
    refused = reply.has_error() and not calls and ("MalformedMessage" in reason or "Traceback" not in said)
    return None if refused or plausible(case) else f"{len(calls)} blocks trained; {reason[:100]}"


@pytest.mark.parametrize(("kind", "every"), [("adaptive", 2), ("a second vector, kept", 3)])
def test_a_spoilt_job_is_refused_before_anything_is_computed(
    kind: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every so manyth case; the campaign has them all."""
    monkeypatch.setattr(logging.getLogger("fedsim"), "disabled", True)
    exchange = Exchange.of(kind, tmp_path)
    content = exchange.sent[HOSTILE].content
    found = {case.name: judge_job(exchange, case) for case in cases(content)[::every]}
    assert len(found) > 100
    assert {name: problem for name, problem in found.items() if problem} == {}
    assert not Nodes()._deliver(exchange.sent[HOSTILE]).has_error()


@pytest.mark.parametrize("bit", [0.0, 1.0])
def test_a_clip_norm_may_have_adapted_so_far_and_no_further(bit: float, tmp_path: Path):
    exchange = Exchange.of("adaptive", tmp_path)
    plan = exchange.session.federation.plan.client
    assert plan is not None
    norm = plan.clip_norm
    for round_ in range(1, 50):
        least, most = clip_norm_range(plan, round_)
        assert least <= norm <= most
        assert min(abs(norm / least - 1), abs(norm / most - 1)) < 1e-5
        norm = adapted(norm, plan.clipping.learning_rate, plan.clipping.quantile, bit)
    assert clip_norm_range(plan, 10**9)[0] > 0


def test_a_job_that_goes_through_a_message_is_the_same_job(tmp_path: Path):
    """All fields of a job travel: one that did not would be one that nobody spoils above."""
    exchange = Exchange.of("a second vector, kept", tmp_path)
    job, found = exchange.jobs[HOSTILE], unpack_job(exchange.sent[HOSTILE])
    for name in TrainJob.__dataclass_fields__:
        one, other = getattr(job, name), getattr(found, name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, name
