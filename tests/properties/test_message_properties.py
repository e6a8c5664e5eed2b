"""Messages of every kind: what is packed is unpacked as it was; what is malformed is refused as that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from flwr.app import Array, Message
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.deployment import wire
from fedsim.messages import MalformedMessage, Rows, TrainJob, TrainReply, pack_job, pack_reply, unpack_job, unpack_reply
from fedsim.privacy.events import Event
from fedsim.tasks import TASKS_OF
from tests.fuzzing.files import npy, npy_mutate
from tests.fuzzing.target import refusal
from tests.fuzzing.wire import KINDS, ORDER, damaged_message
from tests.properties.profile import RANDOMS, tried
from tests.test_messages import over_the_wire

texts = st.text(st.characters(codec="utf-8"), max_size=30)
positive = st.floats(1e-300, 1e300)
finite32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
events = st.builds(Event, st.floats(0, 1e6), st.floats(0, 1), st.sampled_from(["poisson", "fixed"]))
counters = st.dictionaries(events, st.integers(1, 10**6), max_size=4).map(Counter)


def vectors(
    dtype: str, elements: st.SearchStrategy[float] | None = None, least: int = 0
) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(dtype, st.integers(least, 6), elements=elements)


jobs = st.builds(
    TrainJob,
    st.integers(0, 2**60),
    texts,
    texts,
    vectors("i8"),
    vectors("f4", st.floats(width=32)),
    positive,
    st.dictionaries(st.sampled_from(["example", "client"]), positive),
    vectors("f4", st.floats(width=32)),
    arrays.arrays("f4", st.tuples(st.integers(0, 3), st.integers(0, 3)), elements=st.floats(width=32)),
)


@st.composite
def replies(draw: st.DrawFn) -> tuple[TrainReply, np.ndarray, int]:
    """A reply, the clients that were asked, and how many values a report has."""
    asked = np.array(sorted(draw(st.sets(st.integers(0, 2**40), min_size=1, max_size=5))), np.int64)
    size, whole = draw(st.integers(0, 5)), draw(st.booleans())
    rows = None
    if whole:
        some = np.array(draw(st.permutations(asked.tolist()))[: draw(st.integers(0, len(asked)))], np.int64)
        reports = draw(arrays.arrays("f4", (len(some), size), elements=finite32))
        rows = Rows(some, draw(arrays.arrays("f8", len(some), elements=st.floats(0, 1e300))), reports)
    total = draw(arrays.arrays("f8", 0 if whole else size, elements=st.floats(-1e300, 1e300)))
    state = draw(st.none() | arrays.arrays("f4", (len(asked), 2), elements=finite32))
    invalid, half = draw(st.integers(0, len(asked))), len(asked) / 2
    counts = draw(st.floats(-1e9, 1e9)), draw(st.floats(-half, half))
    reply = TrainReply(total, draw(st.floats(0, 1e300)), len(asked), invalid, draw(counters), *counts, rows, state)
    return reply, asked, size


def assert_same(found: object, sent: object) -> None:
    """Field by field, arrays with their types."""
    for name, value in vars(sent).items():
        other = getattr(found, name)
        if isinstance(value, np.ndarray):
            assert other.dtype == value.dtype
            np.testing.assert_array_equal(other, value)
        elif isinstance(value, Rows):
            assert_same(other, value)
        else:
            assert other == value


@tried(40)
@given(jobs)
def test_a_job_arrives_as_it_was_sent(job):
    for message in (pack_job(job, 7), over_the_wire(pack_job(job, 7))):
        assert_same(unpack_job(message), job)


@tried(40)
@given(replies())
def test_a_reply_arrives_as_it_was_sent(made):
    reply, asked, size = made
    to = pack_job(TrainJob(1, "", "", asked, np.zeros(1, np.float32), 0.1), 7)
    for message in (pack_reply(reply, to), over_the_wire(pack_reply(reply, to))):
        assert_same(unpack_reply(message, size, asked, whole=reply.rows is not None), reply)


orders = st.builds(
    lambda run, client, more, round_: wire.Order(run, client, client + more, round_),
    st.text("abcdef0123456789", min_size=1, max_size=64),
    st.integers(0, 1000),
    st.integers(1, 1000),
    st.integers(0, 2**40),
)
words = st.text("abcxyz 0123456789.", max_size=60)
announcements = st.builds(
    wire.Announcement,
    st.integers(0, 10**8),
    st.integers(0, 10**8),
    st.lists(st.integers(1, 99), max_size=3).map(tuple),
    st.lists(texts, max_size=4).map(tuple),
    st.sampled_from(sorted(TASKS_OF)),
    st.integers(0, 10**4),
    st.booleans(),
    words,
    words,
    words,
)
measured = st.fixed_dictionaries({"accuracy": st.floats(0, 1), "loss": st.floats(0, 1e300)})


@tried(40)
@given(orders, announcements, measured, texts, texts)
def test_what_server_and_sites_say_arrives_as_it_was_sent(order, announcement, metrics, scenario, digest):
    query = over_the_wire(wire.pack_query(scenario, digest, 1, order))
    assert wire.read_order(query) == order
    assert wire.unpack_query(query) == (scenario, digest)
    assert wire.unpack_announcement(over_the_wire(wire.pack_announcement(announcement, query))) == announcement
    assert wire.unpack_metrics(over_the_wire(wire.pack_metrics(metrics, query)), tuple(metrics)) == metrics
    params = np.arange(3, dtype=np.float32)
    asked = over_the_wire(wire.pack_evaluation(params, (scenario, digest), 1, replace(order, round=0)))
    found, named = wire.unpack_evaluation(asked)
    np.testing.assert_array_equal(found, params)
    assert named == (scenario, digest)


@pytest.mark.parametrize("kind", sorted(KINDS))
@tried(40)
@given(random=RANDOMS)
def test_a_malformed_message_is_refused_as_that(kind, random: Random):
    try:
        message = damaged_message(random, kind)
    except (TypeError, ValueError):
        return  # nothing that Flower lets one send
    reason = refusal(lambda: KINDS[kind][1](message), MalformedMessage)
    assert reason is None or 0 < len(reason) < 2000


def with_params(data: bytes) -> Message:
    """An evaluation whose model is an array of these bytes."""
    message = wire.pack_evaluation(np.zeros(3, np.float32), ("", ""), 1, ORDER)
    message.content.array_records["arrays"]["params"] = Array("float32", (3,), "numpy.ndarray", data)
    return message


@tried(150)
@given(RANDOMS)
def test_damaged_bytes_of_an_array_are_an_array_or_malformed(random: Random):
    data = npy_mutate(random, npy(np.arange(12.0, dtype=np.float32)), (), [])
    found: list[np.ndarray] = []
    message = with_params(data)
    if refusal(lambda: found.append(wire.unpack_evaluation(message)[0]), MalformedMessage) is None:
        assert found[0].nbytes <= len(data)
        assert not found[0].dtype.hasobject


HEADER = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }"
NO_ARRAYS = {
    "10^12 values": b"\x93NUMPY\x01\x00" + len(HEADER).to_bytes(2, "little") + HEADER + b"\0" * 800,
    "nothing": b"",
    "a zip file": b"PK\x03\x04" + b"\0" * 40,
    "a pickle": b"\x80\x04N.",
    "a torn header": b"\x93NUMPY\x01\x00\xff\xff{",
    "a deep header": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000,
}


@pytest.mark.parametrize("kind", NO_ARRAYS)
def test_an_array_that_is_none_or_announces_more_than_it_brings_is_malformed(kind):
    with pytest.raises(MalformedMessage):
        wire.unpack_evaluation(with_params(NO_ARRAYS[kind]))
    message = pack_job(TrainJob(1, "", "", np.arange(2), np.zeros(3, np.float32), 0.1), 7)
    message.content.array_records["arrays"]["params"] = Array("float32", (3,), "numpy.ndarray", NO_ARRAYS[kind])
    with pytest.raises(MalformedMessage):
        unpack_job(message)


def test_the_text_of_a_refusal_holds_little_of_what_was_sent():
    message = wire.pack_announcement(
        wire.Announcement(1, 1, (), (), "", 0, False, "", ""), wire.pack_query("", "", 1, ORDER)
    )
    message.content.config_records["announcement"]["announcement"] = '{"shape": [], "names": [], "records": "%s"}' % (
        "x" * 10**6
    )
    with pytest.raises(MalformedMessage) as caught:
        wire.unpack_announcement(message)
    assert len(str(caught.value)) < 2000
