"""A node that sends what it likes: its reply is rejected and counted, and the run is the one in which it is silent."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Error, Message
from safetensors.numpy import load_file

import fedsim
from fedsim.collecting import Collected, remember
from fedsim.console import result_text
from fedsim.messages import SharedArray
from fedsim.record import RunDirectory
from fedsim.report import build_report
from tests.hostile_nodes import HOSTILE, Exchange, Kept, Nodes, Spoil, run_over, same, scenario_of
from tests.tampering import Case, cases, reply_of, spoilt

# What is no lie that anybody could see: other numbers of the same make, which training might have given.
OTHERS = frozenset(["one 5e-324", "all 5e-324", "reversed", "negated", "shifted", "times 1000", "times 1e+09"])
PLAUSIBLE = {
    "arrays.total": OTHERS | {"float64 in bytes"},
    "arrays.reports": OTHERS | {"float32 in bytes"},
    "arrays.state": OTHERS | {"float32 in bytes"},
    "arrays.clients": {"int64 in bytes", "reversed"},
    "arrays.weights": {"float64 in bytes"},
    "metrics.invalid": {"1", "one more"},
    "metrics.example_count": {"0", "0.25", "0.0", "1", "5e-324", "negative", "-1", "-1.0", "one more", "one less"},
    "metrics.client_count": {"0", "0.25", "0.0", "1", "5e-324", "negative", "-1", "-1.0", "one more", "one less"},
    "config.events": {"JSON 0 rate 1"},
}

# Kinds of replies that between them have every field and meet every rule; the campaign has all kinds.
QUICK = ("adaptive", "adaptive gradients", "local, one by one", "bounded", "a second vector, kept")


def plausible(case: Case) -> bool:
    """Whether an honest node might have sent it."""
    field, _, what = case.name.partition(": ")
    return what in PLAUSIBLE.get(field, ())


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.running.build_report", lambda path: None)
    monkeypatch.setattr(logging.getLogger("fedsim"), "disabled", True)


def bound_of(exchange: Exchange) -> float:
    """How long the hostile node's sum may be, from the scenario alone."""
    federation, clients = exchange.session.federation, exchange.jobs[HOSTILE].clients
    client, cap = federation.scenario.privacy.client, federation.scenario.algorithm.weight_cap
    sizes = federation.population.sizes[clients]
    weights = np.minimum(sizes / cap, 1.0) if cap else np.ones(len(clients))
    return float(weights.sum()) * client.clip_norm if client and client.placement == "server" else np.inf


def length_of(found: Collected, without: Collected) -> float:
    """How long what the hostile node added is: its sum, or all its reports together."""
    if not found.rows:
        return float((found.updates.total - without.updates.total).norm())
    known = np.concatenate([part.clients for part in without.rows])
    return sum(
        float(np.linalg.norm(report.astype(np.float64)))
        for part in found.rows
        for client, report in zip(part.clients, part.reports, strict=True)
        if client not in known
    )


def judge_reply(exchange: Exchange, case: Case, without: Collected, honest: Collected) -> str | None:
    """What is wrong with how the server took a spoilt reply; None if all is right."""
    store = exchange.session.store
    kept = store.rows.copy() if isinstance(store, Kept) else None
    content = spoilt(exchange.honest[HOSTILE].content, case)
    try:
        found = exchange.with_reply(reply_of(content, exchange.sent[HOSTILE]))
    except Exception as error:
        return f"it stopped the run: {error!r}"[:200]
    if found.rejected == 1 and same(found, without):
        if isinstance(store, Kept) and kept is not None and not np.array_equal(store.rows, kept):
            return "what clients keep was changed"
        return None
    if found.rejected or not plausible(case):
        return "it counted"
    if (found.updates.weight, found.updates.clients) != (honest.updates.weight, honest.updates.clients):
        return "it changed what the sum is divided by"
    if length_of(found, without) > bound_of(exchange) * (1 + 1e-5):
        return "it moved the sum by more than its clients may"
    return None


@pytest.mark.parametrize("kind", QUICK)
def test_every_spoilt_reply_is_rejected_and_counted_or_might_be_right(kind: str, tmp_path: Path):
    exchange = Exchange.of(kind, tmp_path)
    honest, without = exchange.with_reply(exchange.honest[HOSTILE]), exchange.with_reply(exchange.error())
    assert (honest.rejected, without.rejected) == (0, 0)
    assert honest.dropped == 0 < without.dropped
    found = {
        case.name: judge_reply(exchange, case, without, honest) for case in cases(exchange.honest[HOSTILE].content)
    }
    assert len(found) > 200
    assert {name: problem for name, problem in found.items() if problem} == {}


def test_what_a_client_keeps_is_not_spoilt_by_a_reply_that_counts_as_late(tmp_path: Path):
    exchange = Exchange.of("a second vector, kept", tmp_path)
    store, job = exchange.session.store, {HOSTILE: exchange.jobs[HOSTILE]}
    assert isinstance(store, Kept)
    content = exchange.honest[HOSTILE].content
    for case in cases(content)[::5]:
        store.rows[:] = 1.0
        rejected = remember(exchange.session, job, [reply_of(spoilt(content, case), exchange.sent[HOSTILE])])
        assert rejected or plausible(case), case.name
        assert not rejected or (store.rows == 1.0).all(), case.name
    stranger = reply_of(content, exchange.sent[1])
    assert remember(exchange.session, job, [stranger]) == 1
    assert remember(exchange.session, job, [exchange.honest[HOSTILE]]) == 0
    assert not (store.read(exchange.jobs[HOSTILE].clients) == 1.0).any()


def test_compression_after_local_noise_may_lengthen_an_honest_report(tmp_path: Path):
    """It is right on average: few values, each scaled up, are longer than the clipped and noised report was."""
    exchange = Exchange.of("local, compressed", tmp_path)
    assert exchange.with_reply(exchange.honest[HOSTILE]).rejected == 0


@pytest.mark.parametrize("kind", ["client level", "capped weights", "adaptive", "asynchronous"])
def test_a_hostile_node_adds_at_most_what_its_clients_may(kind: str, tmp_path: Path):
    """The largest sum that passes is that of its clients' clip norms; a little more is rejected, and counted."""
    exchange = Exchange.of(kind, tmp_path)
    without, bound, passed = exchange.with_reply(exchange.error()), bound_of(exchange), []
    for factor in (1.0, 1.001, 1e3, 1e30):
        content = spoilt(exchange.honest[HOSTILE].content, Case("", lambda made: None))
        arrays = content.array_records["arrays"]
        name = "reports" if "reports" in arrays else "total"
        values = np.ones_like(arrays[name].numpy())
        rows = len(values) if name == "reports" else 1  # each of which may be as long as one client's share
        arrays[name] = SharedArray(values * values.dtype.type(factor * bound / rows / np.sqrt(values.size / rows)))
        passed.append(exchange.with_reply(reply_of(content, exchange.sent[HOSTILE])))
    assert [found.rejected for found in passed] == [0, 1, 1, 1]
    assert length_of(passed[0], without) == pytest.approx(bound, rel=1e-5)
    assert all(same(found, without) for found in passed[1:])


# --- whole runs


def silent(round_: int, replies: list[Message]) -> list[Message]:
    return [reply for reply in replies if reply.metadata.src_node_id != HOSTILE]


def honest(round_: int, replies: list[Message]) -> list[Message]:
    return replies


def silent_later(round_: int, replies: list[Message]) -> list[Message]:
    return replies if round_ == 1 else silent(round_, replies)


def forged(reply: Message, source: int) -> Message:
    """The reply under another node's name."""
    copied = Message(reply.content, reply_to=asked_by(reply))
    copied.metadata.__dict__["_src_node_id"] = source
    return copied


def asked_by(reply: Message) -> Message:
    return Message(reply.content, dst_node_id=reply.metadata.src_node_id, message_type="train", group_id="0")


def failing(round_: int, replies: list[Message]) -> list[Message]:
    error = Message(Error(1, "\x1b[2J" * 1000), reply_to=asked_by(replies[HOSTILE - 1]))
    return [*silent(round_, replies), error]


def rubbish(reply: Message) -> Message:
    content = spoilt(reply.content, Case("", lambda made: made["arrays"].pop("total")))
    return Message(content, reply_to=asked_by(reply))


class Replay:
    """From the second round on, the hostile node sends its reply of the first again."""

    def __call__(self, round_: int, replies: list[Message]) -> list[Message]:
        if round_ == 1:
            self.first = replies[HOSTILE - 1]
        return [*silent(round_, replies), forged(self.first, HOSTILE)]


# What is done to a round's replies, the run that it must come to, and how many replies are rejected in three rounds.
WHOLE_KIND = ("adaptive", "evaluation.every=3")
WHOLE: dict[str, tuple[Spoil, Spoil, int]] = {
    "an error": (failing, silent, 0),
    "no reply": (silent, silent, 0),
    "rubbish": (lambda r, found: [*silent(r, found), rubbish(found[1])], silent, 3),
    "rubbish first": (lambda r, found: [rubbish(found[1]), *found], honest, 3),
    "twice": (lambda r, found: [*found, found[1]], honest, 3),
    "in another order": (lambda r, found: found[::-1], honest, 0),
    "from a stranger": (lambda r, found: [*found, forged(found[1], 77)], honest, 3),
    "under another's name": (lambda r, found: [forged(found[1], 3), *silent(r, found)], silent, 3),
    "of an old round": (Replay(), silent_later, 2),
}


def facts(result: fedsim.Result) -> dict[str, object]:
    """What must be the same in two runs: model, ledger, what each round says, what is stated of privacy."""
    model = {name: array.tobytes() for name, array in load_file(result.directory / "model.safetensors").items()}
    with sqlite3.connect(result.directory / "ledger.db") as ledger:
        columns = "round, unit, noise_multiplier, rate, sampling, relation, count, clients"
        charges = ledger.execute(f"SELECT {columns} FROM charges ORDER BY id").fetchall()
    rows = [{key: row[key] for key in row if key != "seconds"} for row in RunDirectory(result.directory).rounds()]
    deliveries = {key: value for key, value in result.summary["deliveries"].items() if key != "rejected"}
    return {"model": model, "charges": charges, "rounds": rows, "privacy": result.privacy, "deliveries": deliveries}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Spoil], dict[str, object]]:
    """What a run comes to; each is run once."""
    known: dict[Spoil, dict[str, object]] = {}

    def facts_of(spoil: Spoil) -> dict[str, object]:
        if spoil not in known:
            result = run_over(Nodes(spoil), scenario_of(*WHOLE_KIND), tmp_path_factory.mktemp("expected") / "run")
            assert result.summary["deliveries"]["rejected"] == 0
            known[spoil] = facts(result)
        return known[spoil]

    return facts_of


@pytest.mark.parametrize("name", WHOLE)
def test_whatever_replies_come_the_run_is_one_without_that_node(
    name: str, tmp_path: Path, expected: Callable[[Spoil], dict[str, object]]
):
    spoil, instead, rejected = WHOLE[name]
    found = run_over(Nodes(spoil), scenario_of(*WHOLE_KIND), tmp_path / "run")
    assert facts(found) == expected(instead)
    assert found.summary["deliveries"]["rejected"] == rejected


@pytest.mark.parametrize("kind", ["adaptive gradients"])
def test_a_run_with_a_node_that_spoils_another_field_every_round_is_one_without_it(kind: str, tmp_path: Path):
    scenario, chosen = scenario_of(kind, "rounds=8", "evaluation.every=8"), []

    def spoil(round_: int, replies: list[Message]) -> list[Message]:
        content = replies[1].content
        bad = [case for case in cases(content) if not plausible(case)]
        chosen.append(bad[(37 * round_) % len(bad)])
        return [*silent(round_, replies), Message(spoilt(content, chosen[-1]), reply_to=asked_by(replies[1]))]

    found, expected = (run_over(Nodes(each), scenario, tmp_path / str(at)) for at, each in enumerate((spoil, silent)))
    assert facts(found) == facts(expected), [case.name for case in chosen]
    assert found.summary["deliveries"]["rejected"] == 8


def test_rejected_replies_are_in_the_report_and_on_the_console(tmp_path: Path):
    scenario = scenario_of("sum", "rounds=2")
    result = run_over(Nodes(WHOLE["rubbish"][0]), scenario, tmp_path / "run")
    assert "2 times a reply could not be right" in build_report(result.directory).read_text()
    assert "rejected: 2 replies" in result_text(result)


def test_where_every_node_lies_the_run_stops_and_says_why(tmp_path: Path):
    nodes = Nodes(lambda round_, replies: [rubbish(reply) for reply in replies])
    with pytest.raises(fedsim.FedsimError, match=r"No node answered in this round\. .* total is missing"):
        run_over(nodes, scenario_of("sum"), tmp_path / "run")
