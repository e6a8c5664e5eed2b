"""A hostile server, and a hostile site: what a site refuses, and what a server rejects, whatever is in a message."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.superlink.grid import http_grid

from fedsim.deployment import site as site_side
from fedsim.deployment import wire
from fedsim.deployment.evaluation import SiteEvaluation
from fedsim.deployment.inflating import read_safely
from fedsim.deployment.inspecting import Inspector
from fedsim.deployment.roster import Member
from fedsim.deployment.server_federation import server_federation
from fedsim.deployment.site_log import SiteLog
from fedsim.engines.deployment import DeploymentGrid
from fedsim.messages import REJECTED, MalformedMessage, TrainJob, pack_job
from tests.deployment.fake_flower import Made, make
from tests.deployment.test_rounds import TABLE, run, write_table
from tests.deployment.test_rounds import made as three_sites
from tests.deployment.test_site import ORDER, charged, job_of, scenario_of
from tests.tampering import Case, cases, reply_of, spoilt

three = three_sites  # the fixture, under a name that is not the other's here
FILLED = {f"{where} {value}" for where in ("one", "all") for value in ("5e-324", "1e+30", "1e+38", "-1e+38", "3.4e+38")}
SCALED = {"reversed", "negated", "shifted", "times 1000", "times 1e+09", "times 1e+25", "float32 in bytes"}
WORDS = {"empty", "cut", "twice", "control characters", "nested", "null", "nested TOML", "digits", "path", "NaN"}
# What an honest server might send in the first round: another model, another run, a smaller step.
FROM_SERVERS = {
    "arrays.params": FILLED | SCALED,
    "arrays.memory": {"float32 in bytes"},
    "arrays.state": {"float32 in bytes"},
    "arrays.clients": {"int64 in bytes"},
    "config.learning_rate": {"0.25", "5e-324"},
    "config.clip_norm_example": {"1"},  # as it is
    "config.name": WORDS,
    "config.scenario": {"cut"},  # by the end of its last line
    "query.scenario": {"cut"},
    "site.run": {"cut", "twice", "null", "NaN"},
    "site.sites": {"1", "one more", "one less"},
    "site.round": {"0", "1", "one more", "one less", "its float"},
}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """One site, which lets metrics out."""
    found = make(tmp_path / "d", {"a": write_table(tmp_path / "a.csv", 0)})
    found.set("a", send_metrics="true")
    return found


def from_server(case: Case, kind: str) -> bool:
    """Whether an honest server might have sent it; nothing is charged for a query or an evaluation of any number."""
    field, _, what = case.name.partition(": ")
    if field in ("site.round", "site.client") and kind == "train":
        return False
    return what in FROM_SERVERS.get(field, ()) or (field == "site.client" and what in ("1", "one more"))


def good(made: Made, kind: str) -> Message:
    """A good message of a kind, in the first round."""
    job = job_of(made, scenario_of())
    order = replace(ORDER, round=1 if kind == "train" else 0)
    texts = job.scenario, job.digest
    if kind == "train":
        message = pack_job(job, 1)
        wire.write_order(message, order)
        return message
    return wire.pack_query(*texts, 1, order) if kind == "query" else wire.pack_evaluation(job.params, texts, 1, order)


def answer(made: Made, content: RecordDict, kind: str) -> str | None:
    """Why the site refuses a message; None if it does what it asks."""
    message = Message(content, dst_node_id=1, message_type=kind, group_id="1")
    reply = made.flower.sites[1](message)
    assert reply is not None
    if reply.has_error():
        assert reply.error.code == site_side.REFUSED
        return reply.error.reason
    return wire.unpack_announcement(reply).refusal or None if kind == "query" else None


@pytest.mark.parametrize(("kind", "every"), [("train", 6), ("query", 3), ("evaluate", 6)])
def test_a_site_refuses_every_spoilt_message_charges_nothing_and_lives_on(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, kind: str, every: int
):
    """Every so manyth case; the campaign has them all."""
    content = good(made, kind).content
    monkeypatch.setattr(site_side, "train_clients", trained)
    found = {case.name: judge_message(made, content, case, kind) for case in cases(content)[::every]}
    assert {name: problem for name, problem in found.items() if problem} == {}
    assert charged(made) == 0
    assert not (made.site("a") / "answers").exists()
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.undo()
    assert answer(made, content, kind) is None


class Trained(Exception):
    """Stands for training on the site's records."""


def trained(*given: object) -> None:
    raise Trained


def judge_message(made: Made, content: RecordDict, case: Case, kind: str) -> str | None:
    """What is wrong with how the site took a spoilt message; None if all is right."""
    try:
        reason = answer(made, spoilt(content, case), kind)
    except Trained:
        return None if from_server(case, kind) else "it trained"
    except Exception as error:
        return f"no reason, but {error!r}"[:200]
    if reason is None and not from_server(case, kind):
        return "it was answered"
    return None if reason is None or (len(reason) > 10 and reason.isprintable()) else f"the reason is {reason!r}"


# --- the server's side


@pytest.fixture
def asked(three: Made) -> tuple[Inspector, TrainJob, str, Message, Message]:
    """What the server holds of one site's answer: how it looks at it, the job, its mark, and the answer."""
    made = three
    scenario = scenario_of()
    order = wire.Order("run1", 1, 3, 1)
    announced = wire.Announcement(48, 12, (2,), ("no", "yes"), "classes", 0, True, "native", "1")
    members = [Member(name, "", at + 1, announced) for at, name in enumerate(made.names)]
    log = SiteLog(lambda line: None)
    grid = DeploymentGrid(made.flower, scenario, 1.0, log)  # type: ignore[arg-type]
    federation = server_federation(scenario, members, SiteEvaluation(grid, members, False, log))
    norms, start = federation.plan.clip_norms(), federation.start.numpy().copy()
    job = TrainJob(1, scenario.to_toml(), scenario.digest, np.array([1]), start, 0.5, norms)
    sent = pack_job(job, 2)
    wire.write_order(sent, order)
    reply = made.flower.sites[2](sent)
    assert reply is not None
    assert not reply.has_error(), reply.error.reason
    return Inspector(federation), job, wire.fingerprint(job, order), sent, reply


def test_the_server_rejects_every_spoilt_reply_of_a_site(asked: tuple[Inspector, TrainJob, str, Message, Message]):
    inspector, job, mark, sent, reply = asked
    federation = inspector._federation
    assert inspector.reasons({2: job}, {2: mark}, {2: reply}) == {}
    plausible = FILLED | SCALED | {"float64 in bytes", "1", "one more", "0", "negative", "JSON 0 rate 1"}
    found = {}
    for case in cases(reply.content):
        fresh = Inspector(federation)
        reasons = fresh.reasons({2: job}, {2: mark}, {2: reply_of(spoilt(reply.content, case), sent)})
        field, _, what = case.name.partition(": ")
        if not reasons and not (field in ("arrays.total", "metrics.invalid", "config.events") and what in plausible):
            found[case.name] = "it counts"
    accepted = {"metrics.example_count: 0", "metrics.example_count: negative", "metrics.client_count: 0"}
    assert set(found) <= accepted | {"metrics.client_count: negative"}


def test_no_announcement_or_metrics_stop_the_server(made: Made):
    """What is read of spoilt ones is of the right type and size, or it is malformed."""
    for kind in ("query", "evaluate"):
        message = good(made, kind)
        content = made.flower.sites[1](message).content
        for case in cases(content):
            reply = reply_of(spoilt(content, case), message)
            with contextlib.suppress(MalformedMessage):
                if kind == "query":
                    check_announcement(wire.unpack_announcement(reply))
                else:
                    metrics = wire.unpack_metrics(reply, ("loss", "accuracy"))
                    assert 0 <= metrics["loss"] < np.inf
                    assert 0 <= metrics["accuracy"] <= 1


def check_announcement(found: wire.Announcement) -> None:
    assert all(type(value) is int and 0 <= value <= 10**8 for value in (found.records, found.held_back))
    assert all(type(size) is int and size > 0 for size in found.shape)
    assert np.prod(found.shape) <= 2**27
    assert all(type(name) is str for name in found.names)
    assert type(found.metrics) is bool
    assert found.kind in ("classes", "numbers", "tokens")
    assert all(text.isprintable() and len(text) <= 300 for text in (found.trainer, found.version, found.refusal))


def test_a_site_cannot_write_to_the_servers_terminal_or_fill_its_log(three: Made, capsys: pytest.CaptureFixture):
    honest = three.flower.sites[three.node("b")]

    def rude(message: Message) -> Message | None:
        if message.metadata.message_type == "query":
            return honest(message)
        return Message(Error(1, "\x1b[2J\n" + "x" * 10**6), reply_to=message)

    three.flower.sites[three.node("b")] = rude
    result = run(three, "rounds=1")
    lines = (result.directory / "sites.jsonl").read_text()
    assert len(lines) < 5000
    assert "\\u001b" not in lines
    assert "\x1b" not in capsys.readouterr().err
    assert result.summary["deliveries"]["rejected"] == 0


def test_rejected_replies_of_a_site_are_in_the_summary(three: Made):
    honest = three.flower.sites[three.node("b")]

    def spoiling(message: Message) -> Message | None:
        reply = honest(message)
        if reply is not None and message.metadata.message_type == "train":
            reply.content.metric_records["metrics"]["weight"] = float("nan")
        return reply

    three.flower.sites[three.node("b")] = spoiling
    summary = run(three, text=TABLE).summary
    assert summary["deliveries"]["rejected"] == summary["sites"][1]["rejected"] == 3
    assert summary["deliveries"]["dropped"] == 3


def uploads(made: Made) -> tuple[str, dict[str, bytes]]:
    """A site's answer as it is uploaded: the message's number, and all objects by theirs."""
    message = good(made, "train")
    reply = made.flower.sites[1](message)
    assert reply is not None
    return reply.object_id, {key: value.deflate() for key, value in get_all_nested_objects(reply).items()}


def test_no_upload_of_a_site_stops_the_server(made: Made, monkeypatch: pytest.MonkeyPatch):
    """Each of an answer's objects is replaced by other bytes: it is read, or it answers nothing; nothing is raised."""
    monkeypatch.setattr(http_grid, "inflate_object_from_contents", http_grid.inflate_object_from_contents)
    read_safely()
    number, objects = uploads(made)
    assert http_grid.inflate_object_from_contents(number, dict(objects)).metadata.src_node_id == 1
    unread = 0
    for key, content in objects.items():
        head, body = content.split(b"\0", 1)
        others = [b"", b"x", content[:-1], body, head + b"\0", head + b"\0" + b"[" * 50_000, head + b"\0\xff" * 9]
        for other in [*others, *objects.values()]:
            found = http_grid.inflate_object_from_contents(number, objects | {key: other})
            unread += found.metadata.reply_to_message_id == ""
            assert isinstance(found, Message)
    assert unread > 5 * len(objects)
    assert http_grid.inflate_object_from_contents(number, {}).error.code == REJECTED
