"""Hostile nodes and servers: ``scripts/campaign hostile [COUNT] [SEED]``.

Every field of every kind of message is spoilt in every way of tests/tampering.py: replies of nodes (rejected and
counted, or they might be right), jobs of servers (refused before anything is computed), and what a server sends to a
site (refused with a reason, nothing charged). Then COUNT (100) whole runs follow in which one of three nodes spoils
another field of its reply every round, at random: each must be, to the bit, the run in which that node is silent.

A line per case goes to campaigns/hostile.jsonl; those that are there are not made again.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Message

from fedsim.deployment import site as site_side
from tests.deployment.fake_flower import make
from tests.deployment.test_hostile_sites import good, judge_message, trained
from tests.deployment.test_rounds import write_table
from tests.deployment.test_site import charged
from tests.hostile_nodes import HOSTILE, KINDS, Exchange, Nodes, run_over, scenario_of
from tests.tampering import cases, spoilt
from tests.test_hostile_jobs import judge_job
from tests.test_hostile_replies import asked_by, facts, judge_reply, plausible

RESULTS = Path(__file__).parents[2] / "campaigns" / "hostile.jsonl"
ROUNDS = 8
Judged = tuple[str, Callable[[], str | None]]


def replies(kind: str, folder: Path) -> Iterator[Judged]:
    """Every spoilt reply of a kind."""
    exchange = Exchange.of(kind, folder / "replies" / kind)
    honest, without = exchange.with_reply(exchange.honest[HOSTILE]), exchange.with_reply(exchange.error())
    for case in cases(exchange.honest[HOSTILE].content):
        yield f"reply, {kind}, {case.name}", lambda case=case: judge_reply(exchange, case, without, honest)


def jobs(kind: str, folder: Path) -> Iterator[Judged]:
    """Every spoilt job of a kind."""
    exchange = Exchange.of(kind, folder / "jobs" / kind)
    for case in cases(exchange.sent[HOSTILE].content):
        yield f"job, {kind}, {case.name}", lambda case=case: judge_job(exchange, case)


def messages(kind: str, folder: Path) -> Iterator[Judged]:
    """Every spoilt message of a kind to a site."""
    place = folder / kind
    place.mkdir()
    made = make(place / "d", {"a": write_table(place / "a.csv", 0)})
    made.set("a", send_metrics="true")
    content = good(made, kind).content

    def judged(case: object) -> str | None:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            patch.setattr(site_side, "train_clients", trained)
            return judge_message(made, content, case, kind) or ("it was charged" if charged(made) else None)

    for case in cases(content):
        yield f"site, {kind}, {case.name}", lambda case=case: judged(case)


def runs(count: int, seed: int, folder: Path) -> Iterator[Judged]:
    """Whole runs with a node that spoils its reply anew every round."""

    @cache
    def expected(kind: str) -> dict[str, object]:
        return facts(run_over(Nodes(one_spoilt(None)), scenario(kind), folder / f"silent {kind}"))

    def judged(number: int, kind: str) -> str | None:
        rng, chosen = np.random.default_rng([seed, number]), list[str]()
        found = run_over(Nodes(one_spoilt(rng, chosen)), scenario(kind), folder / f"run {number}")
        problems = [key for key, value in facts(found).items() if value != expected(kind)[key]]
        if found.summary["deliveries"]["rejected"] != len(chosen):
            problems.append("rejected")
        return f"other {', '.join(problems)}: {chosen}" if problems else None

    for number, kind in zip(range(count), itertools.cycle(KINDS), strict=False):
        yield f"run, {kind}, {number} of seed {seed}", lambda number=number, kind=kind: judged(number, kind)


def scenario(kind: str) -> object:
    """A kind's scenario, some rounds long."""
    return scenario_of(kind, f"rounds={ROUNDS}", f"evaluation.every={ROUNDS}")


def one_spoilt(rng: np.random.Generator | None, chosen: list[str] | None = None) -> Callable[..., list[Message]]:
    """The hostile node's reply spoilt, or missing where nothing is drawn."""

    def spoil(round_: int, found: list[Message]) -> list[Message]:
        others = [reply for reply in found if reply.metadata.src_node_id != HOSTILE]
        if rng is None or len(others) == len(found):
            return others
        (own,) = (reply for reply in found if reply.metadata.src_node_id == HOSTILE)
        bad = [case for case in cases(own.content) if not plausible(case)]
        case = bad[int(rng.integers(len(bad)))]
        assert chosen is not None
        chosen.append(case.name)
        return [*others, Message(spoilt(own.content, case), reply_to=asked_by(own))]

    return spoil


def every(count: int, seed: int, folder: Path) -> Iterator[Judged]:
    """All cases of the campaign."""
    for kind in KINDS:
        yield from replies(kind, folder)
        yield from jobs(kind, folder)
    for kind in ("train", "query", "evaluate"):
        yield from messages(kind, folder)
    yield from runs(count, seed, folder)


def known() -> dict[str, str | None]:
    """What earlier campaigns found, by case."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {line["case"]: line["problem"] for line in map(json.loads, lines)}


def main(count: int = 100, seed: int = 0) -> int:
    """Judge every case that is not judged yet; 1 if one failed."""
    torch.set_num_threads(1)
    logging.getLogger("fedsim").disabled = True
    began, found = time.perf_counter(), known()
    RESULTS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, RESULTS.open("a") as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.running.build_report", lambda path: None)
        for name, judged in every(count, seed, Path(place)):
            if name in found:
                continue
            start = time.perf_counter()
            found[name] = judged()
            line = {"case": name, "problem": found[name], "seconds": round(time.perf_counter() - start, 4)}
            print(json.dumps(line), file=out, flush=True)
            if found[name] is not None:
                print(f"FAILED {name}: {found[name]}", flush=True)
            if len(found) % 1000 == 0:
                print(f"{len(found)} cases, at {name}", flush=True)
    failures = sum(problem is not None for problem in found.values())
    print(f"hostile: {len(found)} cases, {failures} failures, {time.perf_counter() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:3])))
