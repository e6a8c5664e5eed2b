"""The layout of Flower messages; the only file that knows it."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from fedsim.data.npy import npy_values
from fedsim.documents import parse_json
from fedsim.privacy.events import Event
from fedsim.privacy.plan import Unit

LONGEST_REASON = 500  # characters of a refusal


class MalformedMessage(ValueError):
    """A message does not have the layout of this file; the text says why, and little of what the sender wrote."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + "..."


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
    keep ``[clients, state]``, where the node keeps nothing for them; the reply has it back.
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


def received(array: Array) -> NDArray[Any]:
    """The values of an array in a message; raises ``ValueError`` where its bytes are not what they say."""
    return array.numpy() if isinstance(array, SharedArray) else npy_values(bytes(array.data))


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
    texts = {"scenario": job.scenario, "digest": job.digest}
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
        arrays, config = message.content.array_records["arrays"], message.content.config_records["config"]
        clients = _array(arrays, "clients", np.int64)
        params = _array(arrays, "params", np.float32)
        texts = _text(config, "scenario"), _text(config, "digest")
        rate, memory = _positive(config, "learning_rate"), _array(arrays, "memory", np.float32)
        state = _array(arrays, "state", np.float32, 2)
        return TrainJob(_whole(config, "round"), *texts, clients, params, rate, _clip_norms(config), memory, state)
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"not a train job: {error}") from error


def pack_reply(reply: TrainReply, to: Message) -> Message:
    """The answer to a train message."""
    ensure_identity()
    arrays = ArrayRecord()
    arrays["total"] = SharedArray(reply.total)
    if reply.rows is not None:
        for name in ("clients", "weights", "reports"):
            arrays[name] = SharedArray(getattr(reply.rows, name))
    if reply.state is not None:
        arrays["state"] = SharedArray(reply.state)
    names = ("weight", "clients", "invalid", "example_count", "client_count")
    metrics = MetricRecord({name: getattr(reply, name) for name in names})
    events = [{**asdict(event), "count": count} for event, count in sorted(reply.events.items())]
    config = ConfigRecord({"events": json.dumps(events)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics, "config": config}), reply_to=to)


def unpack_reply(message: Message, size: int, asked: NDArray[np.int64], whole: bool = False) -> TrainReply:
    """The answer to a job of the clients that were ``asked`` for reports of ``size`` values, each whole or their sum.

    Raises ``MalformedMessage``.
    """
    clients = len(asked)
    try:
        content = message.content
        arrays = content.array_records["arrays"]
        total = _array(arrays, "total", np.float64)
        rows = _rows(arrays) if whole else None
        state = _array(arrays, "state", np.float32, 2) if "state" in arrays else None
        metrics = content.metric_records["metrics"]
        weight, trained, invalid = (float(str(metrics[key])) for key in ("weight", "clients", "invalid"))
        counts = [float(str(metrics[key])) for key in ("example_count", "client_count")]
        events = _events(_text(content.config_records["config"], "events"))
    except (KeyError, ValueError, TypeError) as error:
        raise MalformedMessage(f"not a train reply: {error}") from error
    expected = 0 if whole else size
    if total.shape != (expected,) or not np.isfinite(total).all():
        raise MalformedMessage(
            f"the sum has shape {total.shape} or is not finite; {(expected,)} finite values are expected"
        )
    if rows is not None:
        _check_rows(rows, size, asked)
    if not (0 <= weight < np.inf and trained == clients and 0 <= invalid <= clients):
        raise MalformedMessage(f"weight {weight}, clients {trained} or invalid {invalid} is impossible for {clients}")
    if not np.isfinite(counts).all() or abs(counts[1]) > clients / 2:
        raise MalformedMessage(f"the counts {counts} are impossible for {clients} clients")
    return TrainReply(total, weight, int(trained), int(invalid), events, counts[0], counts[1], rows, state)


def _rows(arrays: ArrayRecord) -> Rows:
    clients, weights = _array(arrays, "clients", np.int64), _array(arrays, "weights", np.float64)
    return Rows(clients, weights, _array(arrays, "reports", np.float32, 2))


def _check_rows(rows: Rows, size: int, asked: NDArray[np.int64]) -> None:
    count = len(rows.clients)
    if rows.reports.shape != (count, size) or rows.weights.shape != (count,):
        raise MalformedMessage(f"{count} reports have shape {rows.reports.shape}; {size} values each are expected")
    if len(np.unique(rows.clients)) != count or not np.isin(rows.clients, asked).all():
        raise MalformedMessage("reports of clients that were not asked, or two of one client")
    if not (np.isfinite(rows.reports).all() and np.isfinite(rows.weights).all() and (rows.weights >= 0).all()):
        raise MalformedMessage("a report or its weight is not finite, or a weight is negative")


def _array(record: ArrayRecord, key: str, dtype: type, dimensions: int = 1) -> NDArray[Any]:
    array = received(record[key])
    if array.dtype != dtype or array.ndim != dimensions:
        raise ValueError(
            f"{key} is {array.dtype} of {array.ndim} dimensions; {np.dtype(dtype)} of {dimensions} is expected"
        )
    return array


def _clip_norms(config: Mapping[str, Any]) -> dict[Unit, float]:
    units: tuple[Unit, ...] = ("example", "client")
    return {unit: _positive(config, key) for unit in units if (key := f"clip_norm_{unit}") in config}


def _positive(record: Mapping[str, Any], key: str) -> float:
    value = record[key]
    if not (isinstance(value, float) and 0 < value < np.inf):
        raise ValueError(f"{key} is not a positive number")
    return value


def _whole(record: Mapping[str, Any], key: str) -> int:
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{key} is not a whole number")
    return value


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is not text")
    return value


def _events(text: str) -> Counter[Event]:
    events: Counter[Event] = Counter()
    for fields in parse_json(text):
        count = _whole(fields, "count")
        events[Event(**{key: value for key, value in fields.items() if key != "count"})] += count
    return events
