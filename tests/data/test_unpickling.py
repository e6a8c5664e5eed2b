"""The restricted reader of pickles: it reads what numpy writes and what Python 2 wrote, and runs nothing."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedsim.data.unpickling import DTYPES, read_pickle
from fedsim.errors import BadInput


def read(folder: Path, raw: bytes) -> dict[str, object]:
    (folder / "x").write_bytes(raw)
    return read_pickle(folder / "x")


def python2_batch(rows: np.ndarray, labels: list[int]) -> bytes:
    """A batch opcode by opcode as Python 2 and its numpy wrote it: protocol 2, byte strings, numpy.core."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    shape = b"J" + struct.pack("<i", rows.shape[0]) + b"M" + struct.pack("<H", rows.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R(K\x03" + short(b"|") + b"NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    values = b"T" + struct.pack("<i", rows.nbytes) + rows.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + short(b"b") + b"\x87R"
    array += b"(K\x01" + shape + dtype + b"\x89" + values + b"tb"
    return b"\x80\x02}(" + short(b"labels") + b"](" + numbers + b"e" + short(b"data") + array + b"u."


def test_a_python_2_batch_is_read(tmp_path):
    rows = np.arange(6000, dtype=np.int64).astype(np.uint8).reshape(2, 3000)
    raw = python2_batch(rows, [3, 9])
    theirs = pickle.loads(raw, encoding="bytes")  # the oracle, on bytes of our own
    np.testing.assert_array_equal(theirs[b"data"], rows)
    ours = read(tmp_path, raw)
    np.testing.assert_array_equal(ours["data"], rows)
    assert ours["labels"] == [3, 9]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(DTYPES)).flatmap(lambda name: arrays.arrays(name, arrays.array_shapes(max_dims=3))),
    st.sampled_from([2, 3, 4]),
    st.booleans(),
)
def test_what_numpy_pickles_is_read_as_it_was(tmp_path_factory, values, protocol, fortran):
    values = np.asfortranarray(values) if fortran else values
    table = {"a": values, "big": values.astype(values.dtype.newbyteorder(">")), "rest": [1, "x", None, 2.5]}
    ours = read(tmp_path_factory.mktemp("pickle"), pickle.dumps(table, protocol))
    np.testing.assert_array_equal(ours["a"], values)
    np.testing.assert_array_equal(ours["big"], values)
    assert ours["a"].dtype == values.dtype
    assert ours["rest"] == [1, "x", None, 2.5]


class Attack:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_no_name_is_looked_up_and_nothing_is_run(tmp_path):
    mark = tmp_path / "mark"
    attacks = [
        Attack(os.mkdir, str(mark)),
        Attack(eval, f"open({str(mark)!r}, 'w')"),
        Attack(getattr, "x", "upper"),
        Attack(np.load, str(mark)),
        np.float64,
        np.array([Attack(os.mkdir, str(mark))], object),
    ]
    for attack in attacks:
        for protocol in (0, 2, 4):
            with pytest.raises(BadInput, match="which no table of arrays needs"):
                read(tmp_path, pickle.dumps({"data": attack}, protocol))
    assert not mark.exists()


def test_the_stand_ins_cannot_be_changed(tmp_path):
    """A pickle that sets attributes on what it may name: refused, and arrays are still read afterwards."""
    good = pickle.dumps({"a": np.arange(3), "b": b"\xff"}, 2)
    names = [b"c_codecs\nencode\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"]
    for name in names:
        for state in (b"}U\x06__new__NsU\x08__init__Ns", b"N}U\x06__new__NsU\x08__init__Ns\x86"):
            with pytest.raises(BadInput):
                read(tmp_path, b"\x80\x02" + name + state + b"b.")
        assert read(tmp_path, good)["a"].tolist() == [0, 1, 2]


REFUSED = {
    "empty": b"",
    "no end": b"\x80\x02}",
    "a list": pickle.dumps([1]),
    "objects": pickle.dumps({"a": np.array([None, "x"], object)}, 2),
    "records": pickle.dumps({"a": np.zeros(2, "i4,f4")}, 2),
    "texts": pickle.dumps({"a": np.array(["x"])}, 2),
    "number as name": pickle.dumps({1: 2}),
    "no state": b"\x80\x02}U\x01acnumpy\nndarray\n)Rs.",
    "state is a number": b"\x80\x02}U\x01acnumpy\nndarray\n)RK\x05bs.",
    "giant memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "giant string": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "persistent": b"\x80\x02}U\x01aPx\ns.",
    "extension": b"\x80\x02}U\x01a\x82\x01s.",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_content_is_refused_by_name(tmp_path, kind):
    if kind == "giant memo":  # harmless: an empty table
        assert read(tmp_path, REFUSED[kind]) == {}
        return
    with pytest.raises(BadInput, match="x is not a pickled table of arrays"):
        read(tmp_path, REFUSED[kind])


GOOD = python2_batch(np.arange(200, dtype=np.uint8).reshape(2, 100), [1, 2])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.binary(min_size=0, max_size=4), st.integers(0, 4))
@example(0, b"", len(GOOD))
def test_corrupted_bytes_are_read_or_refused_never_more(tmp_path_factory, place, put, taken):
    raw = GOOD[:place] + put + GOOD[place + taken :]
    try:
        table = read(tmp_path_factory.mktemp("pickle"), raw)
    except BadInput:
        return
    assert all(isinstance(name, str) for name in table)
