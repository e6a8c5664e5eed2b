"""Messages: what is sent arrives, through Flower's own serialisation too; what is malformed is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from flwr.app import Array, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedsim.messages import (
    MalformedMessage,
    SharedArray,
    TrainJob,
    TrainReply,
    pack_job,
    pack_reply,
    unpack_job,
    unpack_reply,
)
from fedsim.privacy.events import Event

JOB = TrainJob(3, "seed = 1", "abc", np.array([1, 5], np.int64), np.arange(4, dtype=np.float32), 0.1)
REPLY = TrainReply(np.array([0.5, -1.0, 2.0, 0.0]), 2.0, 2, 1, Counter({Event(1.1, 0.2, "poisson"): 14}))


def over_the_wire(message: Message) -> Message:
    """Through Flower's serialisation and back."""
    objects = {key: value.deflate() for key, value in get_all_nested_objects(message).items()}
    received = inflate_object_from_contents(message.object_id, objects)
    assert isinstance(received, Message)
    return received


def test_nothing_is_copied_in_process():
    message = pack_job(JOB, 1)
    assert unpack_job(message).params is JOB.params


@pytest.mark.parametrize("way", [lambda m: m, over_the_wire], ids=["in process", "over the wire"])
def test_jobs_and_replies_arrive_whole(way):
    sent = pack_job(JOB, 7)
    job = unpack_job(way(sent))
    assert (job.round, job.scenario, job.digest) == (3, "seed = 1", "abc")
    np.testing.assert_array_equal(job.clients, JOB.clients)
    np.testing.assert_array_equal(job.params, JOB.params)
    reply = unpack_reply(way(pack_reply(REPLY, sent)), 4, JOB.clients)
    np.testing.assert_array_equal(reply.total, REPLY.total)
    assert (reply.weight, reply.clients, reply.invalid, reply.events) == (2.0, 2, 1, REPLY.events)


def test_a_shared_array_serialises_as_flower_s_own():
    values = np.random.default_rng(0).normal(size=(3, 2))
    shared, own = SharedArray(values), Array(values)
    assert (shared.dtype, shared.shape, shared.stype, shared.data) == (own.dtype, own.shape, own.stype, own.data)


def broken(**changes: object) -> Message:
    message = pack_reply(REPLY, pack_job(JOB, 7))
    content = message.content
    for key, value in changes.items():
        if key == "total":
            content.array_records["arrays"]["total"] = SharedArray(value)
        elif key == "events":
            content.config_records["config"] = ConfigRecord({"events": value})
        else:
            metrics = dict(content.metric_records["metrics"]) | {key: value}
            content["metrics"] = MetricRecord({k: v for k, v in metrics.items() if v is not None})
    return message


@pytest.mark.parametrize(
    "changes",
    [
        {"total": np.zeros(3)},
        {"total": np.zeros((2, 2))},
        {"total": np.zeros(4, np.float32)},
        {"total": np.array([0, np.nan, 0, 0])},
        {"total": np.array([0, np.inf, 0, 0])},
        {"weight": -1.0},
        {"weight": float("inf")},
        {"weight": float("nan")},
        {"weight": None},
        {"clients": 3},
        {"clients": 1},
        {"invalid": -1},
        {"invalid": 3},
        {"events": "not json"},
        {"events": "[{}]"},
        {"events": '[{"noise_multiplier": -1, "rate": 1, "sampling": "none", "relation": "add-remove", "count": 1}]'},
        {"events": '[{"noise_multiplier": 1, "count": "many"}]'},
    ],
    ids=str,
)
def test_malformed_replies_are_refused(changes):
    with pytest.raises(MalformedMessage):
        unpack_reply(broken(**changes), 4, JOB.clients)


def test_malformed_jobs_are_refused():
    for content in (RecordDict(), RecordDict({"config": ConfigRecord({"round": 1})})):
        with pytest.raises(MalformedMessage):
            unpack_job(Message(content, dst_node_id=1, message_type="train"))
    with pytest.raises(MalformedMessage):
        unpack_job(pack_job(TrainJob(1, "", "", JOB.clients.astype(np.int32), JOB.params, 0.1), 1))
