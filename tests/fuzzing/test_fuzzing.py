"""The fuzzer sees what it is for, every target reads its seeds and some damage, and what it once found stays mended."""

from __future__ import annotations

import gzip
import json
import lzma
import os
import pickle
import signal
import sqlite3
import struct
import time
import zipfile
from contextlib import closing
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fedsim.data import files
from fedsim.data.files import read_whole
from fedsim.data.npz import Npz
from fedsim.data.unpickling import read_pickle
from fedsim.deployment.guard import _read
from fedsim.errors import BadInput, FedsimError
from fedsim.privacy.events import Event
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.looking import cost_of_looking
from fedsim.privacy.plan import Charge
from fedsim.privacy.selection import Tries
from fedsim.record import RunDirectory
from fedsim.report.inputs import read_record
from tests.fuzzing.files import npy, zipped
from tests.fuzzing.guard import run_batch
from tests.fuzzing.targets import TARGETS

QUICK = sorted(set(TARGETS) - {"runs", "scenario"})  # these make runs; the campaign has them


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", "")


# The guard


def _hostile(data: bytes, folder: Path) -> None:
    what = data.decode()
    if what == "refused":
        raise BadInput("x is not good.")
    if what == "exception":
        _ = {}["x"]
    if what == "exhausted":
        np.ones(2**40)
    if what == "hidden":
        try:
            np.ones(2**40)
        except MemoryError as error:
            raise BadInput("x is too large.") from error
    if what == "grown":
        np.ones(2**24)
    if what == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "silent":
        raise BadInput("")
    if what == "hang":
        time.sleep(60)


def test_the_guard_sees_what_becomes_of_a_case(monkeypatch):
    monkeypatch.setattr("tests.fuzzing.guard.SECONDS", 3)
    monkeypatch.setattr("tests.fuzzing.guard.GROWTH", 64 * 2**20)
    expected = {
        "good": "good",
        "refused": "refused",
        "exception": "exception",
        "exhausted": "memory",
        "hidden": "memory",
        "grown": "memory",
        "death": "death",
        "silent": "message",
        "hang": "hang",
        "": "good",
    }
    outcomes = run_batch(_hostile, [name.encode() for name in expected], set())
    assert [outcome.kind for outcome in outcomes] == list(expected.values())
    assert "KeyError" in outcomes[2].text
    assert outcomes[6].text == "SIGKILL"


def test_the_guard_knows_which_lines_were_run_first():
    known: set[tuple[str, int]] = set()
    run = TARGETS["site"].run
    first, again, other = run_batch(run, [TARGETS["site"].seeds()[0]] * 2 + [b"name = 3"], known)
    assert len(first.fresh) > 5
    assert again.fresh == []
    assert other.fresh  # the lines of a refusal
    assert set(map(tuple, first.fresh + other.fresh)) == known


@pytest.mark.parametrize("name", QUICK)
def test_every_target_reads_its_seeds_and_survives_some_damage(name):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    target, random = TARGETS[name], Random(f"suite {name}")
    seeds = target.seeds()
    cases = [*seeds[:4], *(target.damaged(random, seeds) for _ in range(6))]
    outcomes = run_batch(target.run, cases, set())
    assert [outcome for outcome in outcomes if outcome.finding] == []
    assert "good" in {outcome.kind for outcome in outcomes[: len(seeds)]}


# What was found


def header(shape: str, descr: str = "'<f8'") -> bytes:
    """The start of an npy file."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


LYING = {
    "10^12 values": header("(1000000000000,)") + b"\0" * 80,
    "10^12 of nothing": header("(1000000000000,)", "'|V0'"),
    "below zero": header("(-2, -5)") + b"\0" * 80,
    "objects": header("(1,)", "'|O'") + pickle.dumps([1]),
    "deep": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10000,
    "unary": b"\x93NUMPY\x01\x00\x10\x27" + b"-" * 10000,
    "torn": header("(10,)")[:40],
    "empty": b"",
}


@pytest.mark.parametrize("kind", LYING)
@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "packed"])
def test_an_array_that_lies_about_itself_is_refused(tmp_path, kind, how):
    labels = npy(np.zeros(10, np.int64))
    (tmp_path / "a.npz").write_bytes(zipped({"x_train.npy": LYING[kind], "y_train.npy": labels}, how))
    (tmp_path / "f").mkdir()
    for name, content in (("x_train", LYING[kind]), ("y_train", labels)):
        (tmp_path / "f" / f"{name}.npy").write_bytes(content)
    (tmp_path / "1.npz").write_bytes(zipped({"head.npy": LYING[kind], "total.npy": labels}, how))
    for load in (
        lambda: Npz(str(tmp_path / "a.npz")).load(0),
        lambda: Npz(str(tmp_path / "f")).load(0),
        lambda: _read(tmp_path / "1.npz"),
    ):
        with pytest.raises(BadInput, match=str(tmp_path)) as caught:
            load()
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", [b"\xff\xff\xff\x7f", b"\x00\xd8\x00\x00"], ids=["beyond", "surrogate"])
def test_owners_of_characters_that_are_none_are_refused(tmp_path, text):
    members = {"x_train": np.zeros((4, 2)), "y_train": np.arange(4) % 2, "who": np.frombuffer(text * 4, "<U1")}
    packed = {f"{name}.npy": npy(values) for name, values in members.items()}
    (tmp_path / "a.npz").write_bytes(zipped(packed))
    with pytest.raises(BadInput, match="owners hold characters that are none"):
        Npz(str(tmp_path / "a.npz"), train_owners="who").load(0)


def test_what_unpacks_to_more_than_the_memory_is_refused_before_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "memory_bytes", lambda: 2**20)
    nothing = b"\0" * 2**21
    (tmp_path / "a.gz").write_bytes(gzip.compress(nothing))
    (tmp_path / "a.xz").write_bytes(lzma.compress(nothing))
    for name in ("a.gz", "a.xz"):
        with pytest.raises(BadInput, match=r"a\.[gx]z unpacks to more than 6\.1e-05 GiB, 1 / 16 of this machine"):
            read_whole(tmp_path / name)
    arrays = {"x_train.npy": npy(np.zeros((8, 2**15))), "y_train.npy": npy(np.arange(8))}
    (tmp_path / "a.npz").write_bytes(zipped(arrays, zipfile.ZIP_DEFLATED))
    with pytest.raises(BadInput, match=r'"x_train" of .* unpacks to more than'):
        Npz(str(tmp_path / "a.npz")).load(0)
    monkeypatch.undo()
    assert read_whole(tmp_path / "a.gz") == read_whole(tmp_path / "a.xz") == nothing
    assert len(Npz(str(tmp_path / "a.npz"), scale=2.0).load(0).train) == 6


def test_the_memory_is_this_machine_s_or_what_this_process_may_have(monkeypatch):
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr("resource.getrlimit", lambda which: (2**30, 2**30))
    assert files.memory_bytes() == min(own, 2**30)
    monkeypatch.setattr("resource.getrlimit", lambda which: (-1, -1))
    assert files.memory_bytes() == own


def test_a_refused_pickle_says_little_of_what_it_holds(tmp_path):
    (tmp_path / "x").write_bytes(b"c" + b"x" * 50_000 + b"\nsystem\n.")
    with pytest.raises(BadInput, match="is not a pickled table of arrays: it names xxx") as caught:
        read_pickle(tmp_path / "x")
    assert len(str(caught.value)) < 1000


ANSWERS = {
    "no zip": b"x",
    "no head": zipped({"total.npy": npy(np.zeros(3))}),
    "a member that is no array": zipped({"head": b"x"}),
}
ANSWERS["torn"] = zipped({"head.npy": npy(np.zeros(3)), "total.npy": npy(np.zeros(3))})[:-40]
ANSWERS["a head of something else"] = zipped({"head.npy": npy(np.frombuffer(b"[1]", np.uint8))})


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_site_s_answer_that_is_damaged_is_bad_input(tmp_path, kind):
    (tmp_path / "1.npz").write_bytes(ANSWERS[kind])
    with pytest.raises(BadInput, match=str(tmp_path / "1.npz")):
        _read(tmp_path / "1.npz")


ROWS = {
    "unit": ("both", 1.0, 1.0, "none", "add-remove", 1, None),
    "noise": ("example", -1.0, 1.0, "none", "add-remove", 1, None),
    "text": ("example", "x", 1.0, "none", "add-remove", 1, None),
    "rate": ("example", 1.0, 7.0, "poisson", "add-remove", 1, None),
    "sampling": ("example", 1.0, 1.0, "x", "add-remove", 1, None),
    "relation": ("example", 1.0, 1.0, "none", "x", 1, None),
    "count": ("example", 1.0, 1.0, "none", "add-remove", -1, None),
    "a client below 0": ("example", 1.0, 1.0, "none", "add-remove", 1, np.array([-1]).tobytes()),
    "a client beyond": ("example", 1.0, 1.0, "none", "add-remove", 1, np.array([3]).tobytes()),
    "a client twice": ("example", 1.0, 1.0, "none", "add-remove", 1, np.array([1, 1]).tobytes()),
    "torn clients": ("example", 1.0, 1.0, "none", "add-remove", 1, b"abc"),
    "text for clients": ("example", 1.0, 1.0, "none", "add-remove", 1, "x"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_a_ledger_that_no_run_wrote_is_refused_and_nobody_is_charged(tmp_path, kind):
    file = tmp_path / "ledger.db"
    ledger = Ledger(file, "p", 3, "run")
    ledger.charge(1, [Charge("example", Event(1.0), 2, np.array([0, 2]))])
    ledger.close()
    columns = "unit, noise_multiplier, rate, sampling, relation, count, clients, run, round"
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"INSERT INTO charges ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, 'other', 1)", ROWS[kind])
        db.commit()
    with pytest.raises(BadInput, match=r"ledger.db is damaged: in charge 2, "):
        Ledger(file, "p", 3, "run")
    with pytest.raises(BadInput, match=r"ledger.db is not a privacy ledger"):
        fedsim_plan(file)
    if kind not in ("unit", "a client beyond"):  # which it does not ask for, and does not know
        with pytest.raises(sqlite3.Error, match="damaged"):
            cost_of_looking([[file]], "example", 1e-5, Tries(1.0, 2.0))


def fedsim_plan(file: Path) -> None:
    from fedsim.planning_ledger import plan_ledger

    plan_ledger(file, 1e-5)


def test_a_ledger_whose_pages_are_torn_is_refused(tmp_path):
    file = tmp_path / "ledger.db"
    ledger = Ledger(file, "p", 3, "run")
    for round_ in range(300):
        ledger.charge(round_, [Charge("example", Event(1.0), 2, np.array([0, 2]))])
    ledger.close()
    data = bytearray(file.read_bytes())
    for page in range(1, len(data) // 4096):
        data[4096 * page : 4096 * page + 60] = b"\xff" * 60
    file.write_bytes(data)
    with pytest.raises(FedsimError, match=r"ledger.db cannot be used"):
        Ledger(file, "p", 3, "run")


RECORD = {
    "environment.json": [b"", b"{", b"[1]", b'{"run_id": 3}', b"\xff", b"[" * 9999],
    "rounds.jsonl": [b"{\n", b"3\n", b"\xff\n", b'{"a": 1}\n[]\n', b"[" * 9999 + b"\n"],
    "cohorts.bin": [np.array([0, 7], "<i4").tobytes(), np.array([-1], "<i4").tobytes()],
}


@pytest.mark.parametrize("name", RECORD)
def test_a_damaged_record_is_bad_input_that_names_the_file(tmp_path, name):
    run = RunDirectory(tmp_path)
    reads = {"rounds.jsonl": run.rounds, "cohorts.bin": lambda: run.participations(7)}
    for content in RECORD[name]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=rf"{name} is damaged"):
            reads.get(name, lambda: RunDirectory(tmp_path).run_id)()


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 9999, b"[]", b'{"x": ' + b"9" * 5000 + b"}"])
@pytest.mark.parametrize("name", ["summary.json", "environment.json", "clients.json", "rounds.jsonl"])
def test_a_damaged_record_has_no_report_but_one_error(tmp_path, name, content):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / name).write_bytes(content + b"\n")
    with pytest.raises(BadInput, match=name):
        read_record(tmp_path)


def test_the_campaign_goes_on_where_it_stopped_and_replays_what_it_found(tmp_path, monkeypatch, capsys):
    from tests.campaigns import fuzz

    monkeypatch.chdir(tmp_path)
    target = fuzz.TARGETS["site"]

    def fails(data: bytes, folder: Path) -> None:
        if b"any" not in data:
            raise KeyError("a defect")

    monkeypatch.setitem(fuzz.TARGETS, "site", type(target)(target.seeds, fails, target.mutate, target.words))
    assert fuzz.main(["1", "5", "site"]) == 1
    text = capsys.readouterr().out
    rows = [json.loads(line) for line in Path("campaigns/fuzz.jsonl").read_text().splitlines()]
    assert [row["batch"] for row in rows] == list(range(len(rows)))
    assert sum(len(row["findings"]) for row in rows) == 1  # of one kind, the first
    assert f"fuzz: {sum(row['cases'] for row in rows)} cases, 1 kinds of findings" in text
    assert fuzz.main(["1", "5", "site"]) == 1  # its time is over: nothing is run
    assert len(Path("campaigns/fuzz.jsonl").read_text().splitlines()) == len(rows)
    file = next(line.split()[5] for line in text.splitlines() if line.startswith("FINDING"))
    with pytest.raises(KeyError, match="a defect"):
        fuzz.main(["replay", file])
