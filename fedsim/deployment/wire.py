"""What a deployment's messages hold beside the layout of ``fedsim.messages``; the only file that knows it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from fedsim.decoding import integer, json_of, only, printable, real, text
from fedsim.messages import BESIDE, MalformedMessage, SharedArray, TrainJob, ensure_identity, one_array
from fedsim.tasks import TASKS_OF

RECORD = BESIDE
MOST_SITES = 100_000
# What a site may say of its data: more of anything is taken for a lie, which others would have to make room for.
MOST_RECORDS, MOST_VALUES, MOST_TOKENS = 10**8, 2**27, 2**24
# Metrics that are shares of the examples, and those that may be negative; all others are zero or more.
SHARES, SIGNED = frozenset(["accuracy", "macro_f1", "auroc"]), frozenset(["r2", "psnr"])


@dataclass(frozen=True)
class Order:
    """What a site is told beside a job: the run's name, its number among how many ``sites``, and the round."""

    run: str
    client: int
    sites: int
    round: int


@dataclass(frozen=True)
class Announcement:
    """What a site says of itself before a run: its records, their signature, and whether its policy accepts."""

    records: int
    held_back: int
    shape: tuple[int, ...]
    names: tuple[str, ...]
    kind: str
    vocabulary: int
    metrics: bool
    trainer: str
    version: str
    refusal: str = ""

    @property
    def signature(self) -> tuple[Any, ...]:
        """What all sites must have in common."""
        return (self.shape, self.names, self.kind, self.vocabulary)


def refusal(reason: str, version: str) -> Announcement:
    """The announcement of a site that does not take part."""
    return Announcement(0, 0, (), (), "", 0, False, "", version, reason)


def write_order(message: Message, order: Order) -> None:
    """Put the order into a message's content."""
    message.content[RECORD] = ConfigRecord(asdict(order))


def read_order(message: Message) -> Order:
    """The order in a message; raises ``MalformedMessage``."""
    try:
        found = message.content.config_records[RECORD]
        only(found, {each.name for each in fields(Order)})
        numbers = (integer(found, key) for key in ("client", "sites", "round"))
        order = Order(text(found, "run"), *numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise MalformedMessage(f"no order for a site: {printable(str(error))}") from error
    if not (order.run.isascii() and order.run.isalnum() and len(order.run) <= 64):
        raise MalformedMessage("an order of a run without a proper name")
    if not (0 <= order.client < order.sites <= MOST_SITES and order.round >= 0):
        raise MalformedMessage(f"an order for site {order.client} of {order.sites} in round {order.round}")
    return order


def fingerprint(job: TrainJob, order: Order) -> str:
    """A digest of all that a job asks; two jobs with the same one are the same."""
    parts = [asdict(order), job.round, job.scenario, job.digest, job.learning_rate, sorted(job.clip_norms.items())]
    found = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for array in (job.clients, job.params, job.memory):
        found.update(str((array.dtype, array.shape)).encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def mark_reply(message: Message, job: str) -> None:
    """Say in a reply which job it answers."""
    message.content[RECORD] = ConfigRecord({"job": job})


def answers(message: Message, job: str) -> bool:
    """Whether a reply says that it answers this job, and no other."""
    record = message.content.config_records.get(RECORD)
    return record is not None and dict(record) == {"job": job}


def pack_query(scenario: str, digest: str, node: int, order: Order) -> Message:
    """A message that asks a site for its announcement."""
    ensure_identity()
    content = RecordDict({"query": ConfigRecord({"scenario": scenario, "digest": digest})})
    message = Message(content, dst_node_id=node, message_type="query", group_id="0")
    write_order(message, order)
    return message


def unpack_query(message: Message) -> tuple[str, str]:
    """The scenario's text and digest; raises ``MalformedMessage``."""
    scenario, digest = _texts(message, "query", ("scenario", "digest"), {RECORD, "arrays"})
    return scenario, digest


def pack_announcement(announcement: Announcement, to: Message) -> Message:
    """A site's answer to a query."""
    record = ConfigRecord({"announcement": json.dumps(asdict(announcement))})
    return Message(RecordDict({"announcement": record}), reply_to=to)


def unpack_announcement(message: Message) -> Announcement:
    """A site's announcement, every field of the right type and size; raises ``MalformedMessage``."""
    (said,) = _texts(message, "announcement", ("announcement",))
    try:
        raw = json_of(said)
        only(raw, {each.name for each in fields(Announcement)})
        if not (isinstance(raw["metrics"], bool) and isinstance(raw["shape"], list) and isinstance(raw["names"], list)):
            raise ValueError("metrics, shape or names of another type")
        words = {key: printable(text(raw, key)) for key in ("kind", "trainer", "version", "refusal")}
        numbers = {key: integer(raw, key) for key in ("records", "held_back", "vocabulary")}
        shape = tuple(integer({"shape": size}, "shape") for size in raw["shape"])
        names = tuple(text({"names": name}, "names") for name in raw["names"])
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedMessage(f"not an announcement: {printable(str(error))}") from error
    values: dict[str, Any] = {**words, **numbers, "shape": shape, "names": names, "metrics": raw["metrics"]}
    found = Announcement(**values)
    _check_numbers(found)
    return found


def _check_numbers(found: Announcement) -> None:
    """Raise ``MalformedMessage`` for numbers that nobody's data has; a refusal says nothing of any."""
    records = 0 <= found.records <= MOST_RECORDS and 0 <= found.held_back <= MOST_RECORDS
    shape = all(size > 0 for size in found.shape) and math.prod(found.shape) <= MOST_VALUES
    if not (records and shape and 0 <= found.vocabulary <= MOST_TOKENS):
        raise MalformedMessage("an announcement with impossible numbers")
    if not (found.refusal or found.kind in TASKS_OF):
        raise MalformedMessage(f"an announcement of data of the unknown kind {found.kind}")


def pack_evaluation(params: NDArray[np.float32], scenario: tuple[str, str], node: int, order: Order) -> Message:
    """A message that asks a site for the metrics of a model on the records that it holds back."""
    ensure_identity()
    arrays = ArrayRecord()
    arrays["params"] = SharedArray(params)
    config = ConfigRecord({"scenario": scenario[0], "digest": scenario[1]})
    content = RecordDict({"arrays": arrays, "query": config})
    message = Message(content, dst_node_id=node, message_type="evaluate", group_id=str(order.round))
    write_order(message, order)
    return message


def unpack_evaluation(message: Message) -> tuple[NDArray[np.float32], tuple[str, str]]:
    """The model and the scenario's text and digest; raises ``MalformedMessage``."""
    try:
        arrays = message.content.array_records["arrays"]
        only(arrays, {"params"})
        params = one_array(arrays, "params", np.float32)
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"not an evaluation: {printable(str(error))}") from error
    return params, unpack_query(message)


def pack_metrics(metrics: dict[str, float], to: Message) -> Message:
    """A site's answer to an evaluation."""
    return Message(RecordDict({"metrics": ConfigRecord({"metrics": json.dumps(metrics)})}), reply_to=to)


def unpack_metrics(message: Message, names: tuple[str, ...]) -> dict[str, float]:
    """The metrics of these names, each a number that it can be; raises ``MalformedMessage``."""
    (said,) = _texts(message, "metrics", ("metrics",))
    try:
        raw = json_of(said)
        only(raw, set(names))
        found = {name: real(raw, name) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedMessage(f"not metrics, finite numbers all: {printable(str(error))}") from error
    for name, value in found.items():
        if not (name in SIGNED or 0 <= value <= (1 if name in SHARES else math.inf)):
            raise MalformedMessage(f"{name} {value:g} is impossible")
    return found


def _texts(message: Message, record: str, keys: tuple[str, ...], beside: set[str] | None = None) -> tuple[str, ...]:
    """The texts of a record that has these and no others, in a message that has no other records but ``beside``."""
    try:
        only(message.content, {record}, frozenset(beside or ()))
        found: Mapping[str, Any] = message.content.config_records[record]
        only(found, set(keys))
        return tuple(text(found, key) for key in keys)
    except (KeyError, ValueError) as error:
        raise MalformedMessage(f"no {record} in the message: {printable(str(error))}") from error
