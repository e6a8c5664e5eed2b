"""Messages between server and clients, or server and sites: right ones with wrong records, fields and arrays."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.deployment import wire
from fedsim.deployment.guard import _read, _write
from fedsim.deployment.roster import load_members
from fedsim.documents import parse_json
from fedsim.messages import MalformedMessage, Rows, TrainJob, TrainReply, pack_job, pack_reply, unpack_job, unpack_reply
from fedsim.privacy.events import Event
from tests.fuzzing.files import npy, npy_mutate, npz_mutate
from tests.fuzzing.mutation import FLOATS, NUMBERS, TEXTS, mutate_bytes, mutate_tree
from tests.fuzzing.target import Target, json_mutate, refusal

JOB = TrainJob(
    3, "seed = 1", "abc", np.array([1, 5]), np.arange(4, dtype=np.float32), 0.1, {"example": 1.0, "client": 0.5}
)
EVENTS = Counter({Event(1.1, 0.2, "poisson"): 14, Event(2.0): 1})
REPLY = TrainReply(np.array([0.5, -1.0, 2.0, 0.0]), 2.0, 2, 1, EVENTS, 0.5, -1.0)
ROWS = Rows(np.array([5, 1]), np.array([0.5, 2.0]), np.arange(8, dtype=np.float32).reshape(2, 4))
WHOLE = TrainReply(np.zeros(0), 2.0, 2, 0, EVENTS, rows=ROWS, state=np.zeros((2, 3), np.float32))
ORDER = wire.Order("run1", 0, 3, 1)
SITE = wire.Announcement(30, 8, (3, 4), ("a", "b"), "classes", 0, True, "vectorised", "0.1.0")

Values = dict[str, Any]
Read = Callable[[Message], object]


def _order() -> Message:
    message = pack_job(JOB, 1)
    wire.write_order(message, ORDER)
    return message


def _evaluation() -> Message:
    return wire.pack_evaluation(JOB.params, ("seed = 1", "abc"), 1, ORDER)


def _to() -> Message:
    return pack_job(JOB, 7)


# What is sent, and what reads it.
KINDS: dict[str, tuple[Callable[[], Message], Read]] = {
    "job": (_to, unpack_job),
    "sum": (lambda: pack_reply(REPLY, _to()), lambda message: unpack_reply(message, 4, JOB.clients)),
    "rows": (lambda: pack_reply(WHOLE, _to()), lambda message: unpack_reply(message, 4, JOB.clients, whole=True)),
    "order": (_order, wire.read_order),
    "query": (lambda: wire.pack_query("seed = 1", "abc", 1, ORDER), wire.unpack_query),
    "announcement": (lambda: wire.pack_announcement(SITE, _to()), wire.unpack_announcement),
    "evaluation": (_evaluation, wire.unpack_evaluation),
    "metrics": (
        lambda: wire.pack_metrics({"accuracy": 0.5, "loss": 1.0}, _to()),
        lambda message: wire.unpack_metrics(message, ("accuracy", "loss")),
    ),
    "answer": (_evaluation, lambda message: wire.answers(message, "abc")),
}


def damaged_message(random: Random, kind: str) -> Message:
    """A message of a kind with one to three faults that its sender can put into it."""
    message = KINDS[kind][0]()
    for _ in range(random.randint(1, 3)):
        name = random.choice(list(message.content) or [""])
        action = random.random()
        if action < 0.1 and name:
            del message.content[name]
        elif action < 0.2:
            message.content[random.choice(["arrays", "config", "metrics", "site", "query"])] = _any_record(random)
        elif name:
            _damage(random, message.content, name)
    return message


def _any_record(random: Random) -> Any:
    return random.choice([ArrayRecord(), ConfigRecord({"events": "[]"}), MetricRecord({"weight": 1.0}), ConfigRecord()])


def _damage(random: Random, content: RecordDict, name: str) -> None:
    record = content[name]
    key = random.choice(list(record) or ["x"])
    if random.random() < 0.15:
        record.pop(key, None)
        return
    if isinstance(record, ArrayRecord):
        record[key] = array(random, record.get(key))
    elif isinstance(record, MetricRecord):
        record[key] = random.choice([*(n for n in NUMBERS if abs(n) < 2**63), *FLOATS, [1, 2], [1.0], []])
    else:
        record[key] = _value(random, record.get(key))


def _value(random: Random, value: Any) -> Any:
    """What a record of settings can hold, which is no tree; a text of JSON with faults of its own."""
    if isinstance(value, str) and value[:2] in ("[{", '{"') and random.random() < 0.8:
        damaged = mutate_tree(random, parse_json(value))
        return random.choice([json.dumps(damaged), "[" * 9000, value[:-1], json.dumps([damaged])])
    numbers = [number for number in NUMBERS if abs(number) < 2**63]
    return random.choice([*numbers, *FLOATS, *TEXTS, b"\xff", True, [], [1], ["x"], [0.5], "x" * 2**21])


def array(random: Random, old: Array | None) -> Array:
    """An array of another type or shape, or one that is not what it says."""
    huge = random.choice([(np.nan, "f4"), (np.inf, "f8"), (1e38, "f4"), (-1e300, "f8")])
    values = [
        np.zeros(
            random.choice([(0,), (1,), (4,), (4, 1), (2, 2, 1), ()]), random.choice(["f4", "f8", "i8", "i4", "?"])
        ),
        np.full(4, *huge),
        np.array(random.choice([[1, 1], [1, 7], [-1, 5], [2**62, 1]])),
    ]
    if random.random() < 0.5:
        return Array(random.choice(values))
    data = npy(random.choice(values)) if old is None else bytes(old.data)
    data = random.choice([npy_mutate, mutate_bytes])(random, data, (), ())
    shape = random.choice([(4,), (10**12,), (-1,), ()])
    return Array(
        dtype=random.choice(["float32", "object", ""]), shape=shape, stype=random.choice([STYPE, STYPE, "x"]), data=data
    )


STYPE = "numpy.ndarray"


def _run_messages(data: bytes, folder: Path) -> None:
    """The input is the seed of what is drawn: 32 damaged messages of every kind."""
    random = Random(data)
    for _ in range(32):
        for kind, (_, read) in KINDS.items():
            try:
                message = damaged_message(random, kind)
            except (TypeError, ValueError):
                continue  # nothing that Flower lets one send
            reason = refusal(partial(read, message), MalformedMessage)
            assert reason is None or 0 < len(reason) < 2000, reason


# What a site wrote itself


def _answer_seeds() -> list[bytes]:
    found = []
    for reply in (REPLY, TrainReply(np.zeros(0), 2.0, 2, 0, EVENTS, rows=ROWS)):
        buffer = io.BytesIO()
        rows = reply.rows
        arrays: Values = {"total": reply.total}
        if rows is not None:
            arrays |= {"clients": rows.clients, "weights": rows.weights, "reports": rows.reports}
        names = ("weight", "clients", "invalid", "example_count", "client_count")
        head = {"job": "abc", "events": [[asdict(event), count] for event, count in reply.events.items()]}
        head |= {"numbers": {name: getattr(reply, name) for name in names}}
        text = np.frombuffer(json.dumps(head).encode(), np.uint8)
        np.savez(buffer, allow_pickle=False, head=text, **arrays)
        found.append(buffer.getvalue())
    return found


def _run_answer(data: bytes, folder: Path) -> None:
    (folder / "1.npz").write_bytes(data)
    job, reply = _read(folder / "1.npz")
    _write(folder / "2.npz", job, reply)
    assert _read(folder / "2.npz")[0] == job


def _member_seeds() -> list[bytes]:
    return [json.dumps([{"name": "a", "key": "k", "node": 3, "announcement": asdict(SITE)}]).encode()]


def _run_members(data: bytes, folder: Path) -> None:
    (folder / "sites.json").write_bytes(data)
    load_members(folder / "sites.json")


def _seed_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    return random.randbytes(8)


WIRE_TARGETS = {
    "messages": Target(lambda: [bytes([number]) for number in range(8)], _run_messages, _seed_mutate),
    "answer": Target(_answer_seeds, _run_answer, npz_mutate, (b"PK\x03\x04", b"\x93NUMPY\x01\0", b"|O")),
    "members": Target(_member_seeds, _run_members, json_mutate, (b"null", b"[" * 3000)),
}
