"""A disk that is full, a folder that is gone: one error, nothing torn, and once mended the run goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.client_store import ClientStore
from fedsim.durable import append_whole, write_whole
from fedsim.errors import FedsimError, StorageFailed
from fedsim.privacy import accounting
from fedsim.privacy.ledger import Ledger
from tests.crash.kinds import charges, differences, record, scenario_of

PRV_EPSILON = cache(accounting.prv_epsilon)
MIB = 1 << 20
ROUNDS = 4
NO_ROOM = r"cannot be (written|used): (No space left on device|database or disk is full|disk I/O error)"


@pytest.fixture(autouse=True)
def _reports_of_one_word(monkeypatch):
    """Drawing figures takes longer than these runs, and so does cross-checking an epsilon again and again."""
    monkeypatch.setattr("fedsim.report.page._content", lambda record, format: b"report" * 5_000)
    monkeypatch.setattr("fedsim.privacy.accounting.prv_epsilon", PRV_EPSILON)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def scenario(*overrides: str) -> fedsim.Scenario:
    return scenario_of("scaffold", f"rounds={ROUNDS}", *overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The record of the undisturbed run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.report.page._content", lambda record, format: b"report" * 5_000)
        return record(fedsim.run(scenario(), tmp_path_factory.mktemp("whole") / "run").directory)


def fill(disk: Path, leave: int = 0) -> None:
    """Fill a disk up to so many bytes."""
    with open(disk / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(b"x" * 4096)
    os.truncate(disk / "ballast", (disk / "ballast").stat().st_size // 4096 * 4096 - leave)


@pytest.mark.parametrize(("round_", "leave"), [(1, 0), (2, 8192), (ROUNDS, 0), (ROUNDS, 16384)])
def test_a_run_on_a_full_disk_is_one_error_and_goes_on_when_there_is_room(round_, leave, small_disk, whole):
    run = small_disk / "run"
    with pytest.raises(FedsimError, match=NO_ROOM):
        fedsim.run(scenario(), run, lambda row: fill(small_disk, leave) if row["round"] == round_ else None)
    assert not list(run.rglob("*.part"))
    lines = (run / "rounds.jsonl").read_bytes()
    assert lines.endswith(b"\n")
    assert lines.count(b"\n") in (round_, min(round_ + 1, ROUNDS))
    recorded = {row[0] for row in charges(run / "ledger.db")}
    assert recorded >= set(range(1, lines.count(b"\n") + 1))
    with pytest.raises(FedsimError, match="cannot be"):  # nothing has changed
        fedsim.resume(run)
    (small_disk / "ballast").unlink()
    fedsim.resume(run)
    assert differences(record(run), whole) == []


def test_a_run_that_cannot_begin_on_a_full_disk_leaves_nothing(small_disk):
    fill(small_disk)
    with pytest.raises(FedsimError, match=r"The run directory .* cannot be made: No space left on device"):
        fedsim.run(scenario(), small_disk / "run")
    assert [file.name for file in small_disk.iterdir()] == ["ballast"]


def test_a_shared_ledger_on_a_full_disk_stops_the_run_before_anything_is_released(small_disk, tmp_path):
    ledger = small_disk / "ledger.db"
    with pytest.raises(FedsimError, match=NO_ROOM):
        fedsim.run(sharing(ledger), tmp_path / "run", lambda row: fill(small_disk) if row["round"] == 2 else None)
    (small_disk / "ballast").unlink()
    recorded = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()
    assert len(recorded) < ROUNDS
    assert {row[0] for row in charges(ledger)} == set(range(1, len(recorded) + 1))
    assert fedsim.resume(tmp_path / "run").exit_code == 0
    assert {row[0] for row in charges(tmp_path / "run" / "ledger.db")} == set(range(1, ROUNDS + 1))


def sharing(ledger: Path) -> fedsim.Scenario:
    return scenario(f'privacy.ledger="{ledger}"', 'privacy.randomness="secure"', 'cohort.sampling={kind="all"}')


def test_a_shared_ledger_where_there_is_no_folder_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(FedsimError, match=r"privacy\.ledger = .*/none/l\.db.: there is no folder") as raised:
        fedsim.run(sharing(tmp_path / "none" / "l.db"), tmp_path / "run")
    assert raised.value.exit_code == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("gone", ["rounds.jsonl", "cohorts.bin", "checkpoint", "ledger.db", "state", ""])
def test_what_is_removed_in_mid_run_is_one_error(gone, tmp_path):
    def remove(row):
        if row["round"] == 2:
            path = tmp_path / "run" / gone
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    with pytest.raises(FedsimError, match="cannot be written: "):
        fedsim.run(scenario(), tmp_path / "run", remove)
    if gone:
        assert not (tmp_path / "run" / gone).exists()


@pytest.mark.parametrize("gone", ["rounds.jsonl", "cohorts.bin"])
def test_a_run_does_not_go_on_without_its_record(gone, tmp_path):
    fedsim.run(scenario(), tmp_path / "run", until=2)
    (tmp_path / "run" / gone).unlink()
    with pytest.raises(FedsimError, match=rf"{gone} has 0 bytes, but \d+ were written up to round 2"):
        fedsim.resume(tmp_path / "run")


def test_a_charge_is_refused_where_the_ledger_was_replaced(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "people", 3, "run")
    shutil.copy(tmp_path / "ledger.db", tmp_path / "copy.db")
    os.replace(tmp_path / "copy.db", tmp_path / "ledger.db")
    with ledger, pytest.raises(FedsimError, match="it was removed or replaced while it was in use"):
        ledger.charge(1, [])


def test_a_read_only_ledger_is_one_error(tmp_path):
    with Ledger(tmp_path / "ledger.db", "people", 3, "run") as ledger:
        ledger._db.execute("PRAGMA query_only = 1")
        with pytest.raises(FedsimError, match="cannot be used: attempt to write a readonly database"):
            ledger.charge(1, [])
        with sqlite3.connect(tmp_path / "ledger.db", timeout=0) as other:  # nothing is left locked
            other.execute("BEGIN IMMEDIATE")
        other.close()


# The pieces


def test_clients_state_on_a_full_disk_is_one_error_and_stays_as_it_was(small_disk):
    clients, size = 64, 1024
    store = ClientStore(small_disk / "state", clients, size)
    everybody = np.arange(clients)
    store.write(1, everybody[:8], np.ones((8, size), np.float32))
    fill(small_disk, leave=40960)
    with pytest.raises(StorageFailed, match=r"The clients' state in .* cannot be written: No space left on device"):
        store.write(2, everybody, np.full((clients, size), 2, np.float32))
    store.rewind(1)
    assert (store.read(everybody[:8]) == 1).all()
    assert (store.read(everybody[8:]) == 0).all()


def test_a_file_that_does_not_fit_is_the_one_before(small_disk):
    file = small_disk / "file"
    write_whole(file, b"before")
    fill(small_disk, leave=4096)
    with pytest.raises(OSError, match="No space left"):
        write_whole(file, bytes(65536))
    with pytest.raises(OSError, match="No space left"):
        append_whole(file, bytes(65536), 6)
    assert sorted(each.name for each in small_disk.iterdir()) == ["ballast", "file"]
    assert file.read_bytes() == b"before"


@pytest.mark.parametrize("at", [0, 3, 9])
def test_what_something_else_changed_is_not_appended_to(at, tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(OSError, match="file has 6 bytes, not") as raised:
        append_whole(tmp_path / "file", b"after", at)
    assert raised.value.errno != errno.ENOENT
    assert (tmp_path / "file").read_bytes() == b"before"
