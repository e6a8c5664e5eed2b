"""Whatever a file holds, it is a table or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.data.scaling import PerClient
from fedsim.errors import BadInput
from tests.data.own_tables import csv, table

SOURCE = b"".join(",".join(row).encode() + b"\n" for row in table(8))


def loads_or_refuses(folder: Path, content: bytes, bad_rows: str, scaling: object) -> None:
    (folder / "t.csv").write_bytes(content)
    source = csv(str(folder / "t.csv"), client="who", bad_rows=bad_rows, missing=("?",), scaling=scaling)
    try:
        data = source.load(0)
    except BadInput:
        return
    read = len(data.train) + len(data.test)
    left_out = [int(note.split()[1]) for note in data.notes if "were left out" in note]
    assert read + sum(left_out) <= content.count(b"\n") + content.count(b"\r") + 1
    assert np.isfinite(data.train.features).all()
    assert {0.0, 1.0} >= set(data.train.features[:, 1:].ravel().tolist())


SCALINGS = st.sampled_from([csv("x").scaling, PerClient()])
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=80), st.booleans(), st.sampled_from(["refuse", "drop"]), SCALINGS)
def test_random_bytes_are_a_table_or_refused(tmp_path, content, header, bad_rows, scaling):
    loads_or_refuses(tmp_path, b"who,age,sex,ill\n" * header + content, bad_rows, scaling)


EDITS = st.lists(
    st.tuples(
        st.integers(0, len(SOURCE)),
        st.integers(0, 6),
        st.one_of(
            st.binary(max_size=3), st.sampled_from([b",", b'"', b"\n", b"\r", b"1e999", b"-", b"?", b"\0", b"9" * 40])
        ),
    ),
    max_size=4,
)


@FUZZ
@given(EDITS, st.sampled_from(["refuse", "drop"]), SCALINGS)
def test_a_damaged_table_is_a_table_or_refused(tmp_path, edits, bad_rows, scaling):
    content = SOURCE
    for where, length, put in edits:
        content = content[:where] + put + content[where + length :]
    loads_or_refuses(tmp_path, content, bad_rows, scaling)
