"""The layout of Flower messages; the only file that knows it."""

from __future__ import annotations

import io
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from fedsim.decoding import integer, json_of, npy_array, only, printable, real, text
from fedsim.privacy.events import Event
from fedsim.privacy.plan import Unit

# A record of this name may come beside those of this file: what a deployment adds.
BESIDE = "site"
# The code of an error in the place of a reply that cannot be right; Flower leaves codes to applications.
REJECTED = 702
RECORDS, ROWS = {"arrays", "metrics", "config"}, {"clients", "weights", "reports"}
NUMBERS = ("weight", "clients", "invalid", "example_count", "client_count")
UNITS: tuple[Unit, ...] = ("example", "client")


class MalformedMessage(ValueError):
    """A message does not have the layout of this file."""


class SharedArray(Array):
    """A Flower ``Array`` that keeps its ndarray and makes npy bytes only when somebody asks (that is, to send them)."""

    def __init__(self, ndarray: NDArray[Any]) -> None:
        # Array's own constructor would serialise at once.
        self.__dict__.update(
            dtype=str(ndarray.dtype), shape=tuple(ndarray.shape), stype="numpy.ndarray", _ndarray=ndarray
        )

    def __getattr__(self, name: str) -> Any:
        """``data``: the npy bytes, on first use."""
        if name != "data":
            raise AttributeError(name)
        buffer = io.BytesIO()
        np.save(buffer, self.__dict__["_ndarray"], allow_pickle=False)
        self.__dict__["data"] = buffer.getvalue()
        return self.__dict__["data"]

    def numpy(self) -> NDArray[Any]:
        """The array itself, not a copy."""
        ndarray: NDArray[Any] = self.__dict__["_ndarray"]
        return ndarray

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by a function, as pickle would not find the class under the name that Flower needs."""
        return shared_array, (self.numpy(),)


# Flower writes the class's name into what it sends, and looks it up among its own classes on arrival.
SharedArray.__qualname__ = Array.__qualname__


def shared_array(ndarray: NDArray[Any]) -> SharedArray:
    """What ``SharedArray`` is unpickled by; a copy where the memory it came in cannot be written to."""
    return SharedArray(ndarray if ndarray.flags.writeable else ndarray.copy())


@dataclass(frozen=True)
class TrainJob:
    """What a node is asked: train these clients from these parameters in this round of this scenario.

    ``memory`` is what the algorithm's server sends beside the model; most send nothing. ``state`` is what its clients
    keep ``[clients, state]``, where the node keeps nothing for them; the reply has it back. ``name`` is the job's own:
    a reply says it, so that no reply to another job is taken for one to this.
    """

    round: int
    scenario: str
    digest: str
    clients: NDArray[np.int64]
    params: NDArray[np.float32]
    learning_rate: float
    clip_norms: dict[Unit, float] = field(default_factory=dict)
    memory: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    state: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    name: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True)
class Rows:
    """Every client's own report ``[clients, report]``, for aggregators that need it: whose it is, and its weight."""

    clients: NDArray[np.int64]
    weights: NDArray[np.float64]
    reports: NDArray[np.float32]


@dataclass(frozen=True)
class TrainReply:
    """What a node answers: the weighted sum of its clients' (clipped) reports, and the events their noise spent.

    Where the server needs every report, ``rows`` holds those that are finite, and ``total`` is empty.
    ``example_count`` and ``client_count`` are the centred counts of gradients and of updates within the clip norm, for
    adaptive clipping; that of gradients is noised.
    """

    total: NDArray[np.float64]
    weight: float
    clients: int
    invalid: int
    events: Counter[Event]
    example_count: float = 0.0
    client_count: float = 0.0
    rows: Rows | None = None
    state: NDArray[np.float32] | None = None


def join_rows(parts: list[Rows]) -> Rows:
    """All reports in the order of their clients, whatever blocks they were made in."""
    clients = np.concatenate([part.clients for part in parts])
    order = np.argsort(clients)
    weights, reports = (np.concatenate([getattr(part, name) for part in parts]) for name in ("weights", "reports"))
    return Rows(clients[order], weights[order], reports[order])


def ensure_identity() -> None:
    """Flower 1.41 refuses to make a message in a process without a task; simulations of ours have none, so name one."""
    if TaskIdentity._task_id is None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def pack_job(job: TrainJob, node: int) -> Message:
    """A Flower train message for ``node``."""
    ensure_identity()
    arrays = ArrayRecord()
    arrays["params"] = SharedArray(job.params)
    arrays["clients"] = SharedArray(job.clients)
    arrays["memory"] = SharedArray(job.memory)
    arrays["state"] = SharedArray(job.state)
    clip_norms = {f"clip_norm_{unit}": value for unit, value in job.clip_norms.items()}
    texts = {"scenario": job.scenario, "digest": job.digest, "name": job.name}
    config = ConfigRecord({"round": job.round, "learning_rate": job.learning_rate, **texts, **clip_norms})
    return Message(
        RecordDict({"arrays": arrays, "config": config}),
        dst_node_id=node,
        message_type="train",
        group_id=str(job.round),
    )


def unpack_job(message: Message) -> TrainJob:
    """The job in a message; raises ``MalformedMessage``."""
    try:
        content = message.content
        only(content, {"arrays", "config"}, frozenset({BESIDE}))
        arrays, config = content.array_records["arrays"], content.config_records["config"]
        only(arrays, {"params", "clients", "memory", "state"})
        norms = {f"clip_norm_{unit}": unit for unit in UNITS}
        only(config, {"round", "learning_rate", "scenario", "digest", "name"}, frozenset(norms))
        return TrainJob(
            round=integer(config, "round"),
            scenario=text(config, "scenario"),
            digest=text(config, "digest"),
            clients=one_array(arrays, "clients", np.int64),
            params=one_array(arrays, "params", np.float32),
            learning_rate=_positive(config, "learning_rate"),
            clip_norms={unit: _positive(config, key) for key, unit in norms.items() if key in config},
            memory=one_array(arrays, "memory", np.float32),
            state=one_array(arrays, "state", np.float32, 2),
            name=text(config, "name"),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"not a train job: {printable(str(error))}") from error


def pack_reply(reply: TrainReply, to: Message) -> Message:
    """The answer to a train message."""
    ensure_identity()
    arrays = ArrayRecord()
    arrays["total"] = SharedArray(reply.total)
    if reply.rows is not None:
        for name in sorted(ROWS):
            arrays[name] = SharedArray(getattr(reply.rows, name))
    if reply.state is not None:
        arrays["state"] = SharedArray(reply.state)
    metrics = MetricRecord({name: getattr(reply, name) for name in NUMBERS})
    events = [{**asdict(event), "count": count} for event, count in sorted(reply.events.items())]
    config = ConfigRecord({"events": json.dumps(events), "name": to.content.config_records["config"]["name"]})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics, "config": config}), reply_to=to)


def check_answers(message: Message, job: TrainJob) -> None:
    """Raise ``MalformedMessage`` where a message does not say that it answers this job."""
    try:
        config = message.content.config_records["config"]
        only(config, {"events", "name"})
        name = text(config, "name")
    except (KeyError, ValueError) as error:
        raise MalformedMessage(f"not a train reply: {printable(str(error))}") from error
    if name != job.name:
        raise MalformedMessage("it does not answer this round's job: an old reply, or one to another job")


def unpack_reply(message: Message, size: int, asked: NDArray[np.int64], whole: bool = False) -> TrainReply:
    """The answer to a job of the clients that were ``asked`` for reports of ``size`` values: each whole or their sum.

    Raises ``MalformedMessage``.
    """
    clients = len(asked)
    try:
        content = message.content
        only(content, RECORDS, frozenset({BESIDE}))
        arrays, metrics = content.array_records["arrays"], content.metric_records["metrics"]
        only(arrays, {"total"} | (ROWS if whole else set()), frozenset({"state"}))
        only(metrics, set(NUMBERS))
        total = one_array(arrays, "total", np.float64)
        rows = _rows(arrays) if whole else None
        state = one_array(arrays, "state", np.float32, 2) if "state" in arrays else None
        trained, invalid = (integer(metrics, key) for key in ("clients", "invalid"))
        weight, *counts = (real(metrics, key) for key in ("weight", "example_count", "client_count"))
        events = _events(text(content.config_records["config"], "events"))
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"not a train reply: {printable(str(error))}") from error
    expected = 0 if whole else size
    if total.shape != (expected,) or not np.isfinite(total).all():
        raise MalformedMessage(
            f"the sum has shape {total.shape} or is not finite; {(expected,)} finite values are expected"
        )
    if rows is not None:
        _check_rows(rows, size, asked)
    if not (weight >= 0 and trained == clients and 0 <= invalid <= clients):
        raise MalformedMessage(f"weight {weight}, clients {trained} or invalid {invalid} is impossible for {clients}")
    if abs(counts[1]) > clients / 2:
        raise MalformedMessage(f"the counts {counts} are impossible for {clients} clients")
    return TrainReply(total, weight, trained, invalid, events, counts[0], counts[1], rows, state)


def _rows(arrays: ArrayRecord) -> Rows:
    clients, weights = one_array(arrays, "clients", np.int64), one_array(arrays, "weights", np.float64)
    return Rows(clients, weights, one_array(arrays, "reports", np.float32, 2))


def _check_rows(rows: Rows, size: int, asked: NDArray[np.int64]) -> None:
    count = len(rows.clients)
    if rows.reports.shape != (count, size) or rows.weights.shape != (count,):
        raise MalformedMessage(f"{count} reports have shape {rows.reports.shape}; {size} values each are expected")
    if len(np.unique(rows.clients)) != count or not np.isin(rows.clients, asked).all():
        raise MalformedMessage("reports of clients that were not asked, or two of one client")
    if not (np.isfinite(rows.reports).all() and np.isfinite(rows.weights).all() and (rows.weights >= 0).all()):
        raise MalformedMessage("a report or its weight is not finite, or a weight is negative")


def one_array(record: ArrayRecord, key: str, dtype: type, dimensions: int = 1) -> NDArray[Any]:
    """An array of a record, of this type and number of dimensions; raises ``KeyError`` or ``ValueError``."""
    found = record[key]
    if not isinstance(found, SharedArray):
        return npy_array(found.data, dtype, dimensions)
    array: NDArray[Any] = found.numpy()
    if array.dtype != dtype or array.ndim != dimensions:
        raise ValueError(
            f"{key} is {array.dtype} of {array.ndim} dimensions; {np.dtype(dtype)} of {dimensions} is expected"
        )
    return array


def _positive(record: Mapping[str, Any], key: str) -> float:
    value = real(record, key)
    if value <= 0:
        raise ValueError(f"{key} is not a positive number")
    return value


def _events(listed: str) -> Counter[Event]:
    """Events with their counts; each is named once, and by the fields of an event alone."""
    events, parsed = Counter[Event](), json_of(listed)
    if not isinstance(parsed, list):
        raise ValueError("events are no list")
    for found in parsed:
        names = {each.name for each in fields(Event)}
        only(found, names | {"count"})
        numbers, words = (real(found, "noise_multiplier"), real(found, "rate")), (found["sampling"], found["relation"])
        event = Event(*numbers, *words)
        if event in events or integer(found, "count") < 0:
            raise ValueError("an event is named twice, or happened less than never")
        events[event] = integer(found, "count")
    return events
