"""What a deployment's messages hold beside the layout of ``fedsim.messages``; the only file that knows it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from numpy.typing import NDArray

from fedsim.documents import parse_json
from fedsim.messages import MalformedMessage, SharedArray, TrainJob, ensure_identity, received

RECORD = "site"
MAX_TEXT = 1 << 20


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
        found = dict(message.content.config_records[RECORD])
        order = Order(**found)
    except (KeyError, TypeError) as error:
        raise MalformedMessage(f"no order for a site: {error}") from error
    numbers = (order.client, order.sites, order.round)
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        raise MalformedMessage(f"an order with {numbers}, which are no numbers")
    if not (isinstance(order.run, str) and order.run.isalnum() and len(order.run) <= 64):
        raise MalformedMessage("an order of a run without a proper name")
    if not (0 <= order.client < order.sites <= 100_000 and order.round >= 0):
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
    return record is not None and record.get("job") == job


def pack_query(scenario: str, digest: str, node: int, order: Order) -> Message:
    """A message that asks a site for its announcement."""
    ensure_identity()
    content = RecordDict({"query": ConfigRecord({"scenario": scenario, "digest": digest})})
    message = Message(content, dst_node_id=node, message_type="query", group_id="0")
    write_order(message, order)
    return message


def unpack_query(message: Message) -> tuple[str, str]:
    """The scenario's text and digest; raises ``MalformedMessage``."""
    scenario, digest = _texts(message, "query", ("scenario", "digest"))
    return scenario, digest


def pack_announcement(announcement: Announcement, to: Message) -> Message:
    """A site's answer to a query."""
    record = ConfigRecord({"announcement": json.dumps(asdict(announcement))})
    return Message(RecordDict({"announcement": record}), reply_to=to)


def unpack_announcement(message: Message) -> Announcement:
    """A site's announcement, every field of the right type and size; raises ``MalformedMessage``."""
    (text,) = _texts(message, "announcement", ("announcement",))
    try:
        raw = parse_json(text)
        shape, names = tuple(map(int, raw["shape"])), tuple(map(str, raw["names"]))
        counts = [int(raw[key]) for key in ("records", "held_back", "vocabulary")]
        words = [str(raw[key])[:300] for key in ("kind", "trainer", "version", "refusal")]
        found = Announcement(
            records=counts[0],
            held_back=counts[1],
            shape=shape,
            names=names,
            kind=words[0],
            vocabulary=counts[2],
            metrics=raw["metrics"] is True,
            trainer=words[1],
            version=words[2],
            refusal=words[3],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedMessage(f"not an announcement: {error!r}") from error
    if not all(0 <= count < 2**40 for count in counts) or not all(0 < size < 2**31 for size in shape):
        raise MalformedMessage("an announcement with impossible numbers")
    return found


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
        params: NDArray[np.float32] = received(message.content.array_records["arrays"]["params"])
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"not an evaluation: {error}") from error
    return params, unpack_query(message)


def pack_metrics(metrics: dict[str, float], to: Message) -> Message:
    """A site's answer to an evaluation."""
    return Message(RecordDict({"metrics": ConfigRecord({"metrics": json.dumps(metrics)})}), reply_to=to)


def unpack_metrics(message: Message, names: tuple[str, ...]) -> dict[str, float]:
    """The metrics of these names, finite numbers all; raises ``MalformedMessage``."""
    (text,) = _texts(message, "metrics", ("metrics",))
    try:
        raw = parse_json(text)
        found = {name: float(raw[name]) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise MalformedMessage(f"not metrics: {error!r}") from error
    if not np.isfinite(list(found.values())).all():
        raise MalformedMessage(f"metrics that are not finite: {found}")
    return found


def _texts(message: Message, record: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    try:
        found = tuple(message.content.config_records[record][key] for key in keys)
    except KeyError as error:
        raise MalformedMessage(f"no {error} in the message") from error
    if not all(isinstance(text, str) and len(text) <= MAX_TEXT for text in found):
        raise MalformedMessage(f"what should be text in {record} is none, or too long")
    return found
