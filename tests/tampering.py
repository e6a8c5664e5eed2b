"""Every way to spoil a message that this file knows, found by looking at a real one: a field added later is spoilt too.

Values of a kind (array, number, text, JSON) are replaced by each of a table of others; records and fields are taken
away, added and renamed.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from fedsim.messages import SharedArray

Change = Callable[[RecordDict], None]
DTYPES = ("float16", "float32", "float64", ">f4", ">f8", "int8", "int32", "int64", "uint64", "bool", "complex64", "S4")
FLOATS = (np.nan, np.inf, -np.inf, 1e38, -1e38, 3.4e38, 1e300, 1e30, 5e-324)
LONG = 1 << 22


class Case(NamedTuple):
    """A way to spoil a message, and its name, such as ``arrays.total: float32``."""

    name: str
    spoil: Change


def cases(content: RecordDict) -> list[Case]:
    """All ways to spoil a content of this make."""
    return [case for case in _cases(content) if _differs(content, case)]


def spoilt(content: RecordDict, case: Case) -> RecordDict:
    """A copy of the content, spoilt."""
    copied = RecordDict({name: _copied(record) for name, record in content.items()})
    case.spoil(copied)
    return copied


def _copied(record: Any) -> Any:
    """A record of its own with the same values."""
    if isinstance(record, ArrayRecord):
        made = ArrayRecord()
        for key, value in record.items():
            made[key] = value
        return made
    return type(record)(dict(record))


def _differs(content: RecordDict, case: Case) -> bool:
    """Whether the case can be made, and is another message than the honest one."""
    try:
        made = spoilt(content, case)
    except (TypeError, ValueError, OverflowError):
        return False  # Flower's records do not hold it
    return _plain(made) != _plain(content)


def _plain(content: RecordDict) -> list[Any]:
    return [(name, type(record), [(key, _value(record[key])) for key in record]) for name, record in content.items()]


def _value(value: Any) -> Any:
    if isinstance(value, SharedArray):
        values = value.numpy()
        return values.dtype, values.shape, values.tolist() if values.dtype == object else values.tobytes()
    return value.data if isinstance(value, Array) else repr(value)


def _cases(content: RecordDict) -> Iterator[Case]:
    for name, record in content.items():
        yield Case(f"{name}: missing", lambda made, name=name: made.pop(name))
        for other in (ArrayRecord(), ConfigRecord({"x": 1}), MetricRecord({"x": 1})):
            yield Case(f"{name}: a {type(other).__name__}", _set(name, None, other))
        yield Case(f"{name}.extra", _set(name, "extra", next(iter(record.values()))))
        for key in record:
            yield Case(f"{name}.{key}: missing", lambda made, name=name, key=key: made[name].pop(key))
            for what, value in _others(record[key]):
                yield Case(f"{name}.{key}: {what}", _set(name, key, value))
    yield Case("extra record", _set("extra", None, ConfigRecord({"x": 1})))


def _set(name: str, key: str | None, value: Any) -> Change:
    def spoil(made: RecordDict) -> None:
        if key is None:
            made.pop(name, None)
            made[name] = value
        else:
            made[name][key] = value

    return spoil


def _others(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Array):
        yield from _arrays(value.numpy())
    elif isinstance(value, str):
        yield from _texts(value)
    else:
        yield from _numbers(value)


def _numbers(value: Any) -> Iterator[tuple[str, Any]]:
    for other in (*FLOATS, -1.0, 0.0, 0.25, 1e6, -1, 0, 1, 2**62, -(2**63), True):
        yield repr(other), other
    yield from (("one more", value + 1), ("one less", value - 1), ("negative", -value), ("a list", [value]))
    yield from (("text", str(value)), ("bytes", b"1"), ("an empty list", []), ("its float", float(value)))


def _texts(value: str) -> Iterator[tuple[str, Any]]:
    plain = {
        "empty": "",
        "a number": 1,
        "bytes": value.encode(),
        "a list": [value],
        "cut": value[:-1],
        "long": "x" * LONG,
    }
    plain |= {"twice": value + value, "control characters": "\x1b[2J\x07", "nested": "[" * 100_000, "null": "null"}
    plain |= {"nested TOML": "a = " + "[" * 100_000, "digits": "9" * 5000, "path": "../../x", "NaN": "NaN"}
    yield from plain.items()
    try:
        parsed = json.loads(value)
    except ValueError:
        return
    for what, other in _jsons(parsed):
        yield f"JSON {what}", json.dumps(other)
    yield "JSON of 400 digits", value.replace(": ", ": 1" + "0" * 400, 1)


def _jsons(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one part of it replaced, taken away or added."""
    others = (None, True, 0, -1, 1, 10**400, 1e38, float("nan"), float("inf"), "x", "", [], {}, [[]], 0.5)
    if isinstance(value, dict):
        yield "extra", value | {"extra": 1}
        for key in value:
            yield f"without {key}", {name: each for name, each in value.items() if name != key}
            for what, other in _jsons(value[key]):
                yield f"{key} {what}", value | {key: other}
    elif isinstance(value, list):
        yield "twice", value + value
        yield "in itself", [value]
        for at, each in enumerate(value[:2]):
            yield f"without {at}", value[:at] + value[at + 1 :]
            for what, other in _jsons(each):
                yield f"{at} {what}", [*value[:at], other, *value[at + 1 :]]
    yield from ((repr(other)[:9], other) for other in others if repr(other) != repr(value))


def _arrays(value: np.ndarray) -> Iterator[tuple[str, Array]]:
    for dtype in DTYPES:
        yield dtype, SharedArray(value.astype(dtype))
        yield f"{dtype} in bytes", Array(value.astype(dtype))
    for what, other in _shapes(value):
        yield what, SharedArray(np.array(other, order="C"))
    for what, other in _values(value):
        yield what, SharedArray(other)
    for what, data in _bytes(value):
        yield what, Array(str(value.dtype), tuple(value.shape), "numpy.ndarray", data)
    yield "of Python objects", SharedArray(value.astype(object))


def _shapes(value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    flat = value.reshape(-1)
    yield from (("empty", value[:0]), ("0-d", np.zeros((), value.dtype)), ("in itself", value[None]), ("flat", flat))
    yield from (("shorter", value[:-1]), ("longer", np.concatenate([value, np.ones_like(value[:1])])))
    yield from (("one", np.ones(1, value.dtype)), ("turned", value.T), ("of another shape", value[..., None]))
    if value.ndim > 1:
        yield "narrower", value[:, :-1]
        yield "wider", np.concatenate([value, value], axis=1)


def _values(value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    numbers = FLOATS if value.dtype.kind == "f" else (-1, 0, 1, 4, 5, 6, 2**31, 2**62, -(2**63))
    for number in numbers:
        with np.errstate(over="ignore"):
            filled = np.full_like(value, number)
        one = value.copy()
        one.reshape(-1)[:1] = filled.reshape(-1)[:1]
        yield f"one {number!r}", one
        yield f"all {number!r}", filled
    yield from (("reversed", value[::-1].copy()), ("negated", -value), ("shifted", value + np.ones_like(value)))
    if value.dtype.kind == "f":
        with np.errstate(over="ignore"):
            yield from ((f"times {factor:g}", (value * factor).astype(value.dtype)) for factor in (1e3, 1e9, 1e25))


def _bytes(value: np.ndarray) -> Iterator[tuple[str, bytes]]:
    good = Array(value).data
    yield from (("no bytes", b""), ("cut bytes", good[:-1]), ("more bytes", good + b"\0"), ("noise", bytes(range(256))))
    yield from (("a pickle", pickle.dumps(value)), ("half a header", good[:20]), ("a magic alone", good[:6]))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x.npy", good)
    yield "an archive", packed.getvalue()
    yield "an empty archive", b"PK\x05\x06" + bytes(18)
    for what, shape in (
        ("huge", "(1099511627776,)"),
        ("overflowing", "(4294967296, 4294967296)"),
        ("negative", "(-3,)"),
    ):
        yield f"a {what} claim", _npy(f"{{'descr': '{value.dtype.str}', 'fortran_order': False, 'shape': {shape}}}")
    yield "objects claimed", _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + pickle.dumps([1])
    yield "a nested header", _npy("(" * 9000)
    yield "an old header", _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (3L,)}")
    yield "a header without end", _npy("{'descr': '''")


def _npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def reply_of(content: RecordDict, sent: Message) -> Message:
    """An answer with this content."""
    return Message(content, reply_to=sent)
