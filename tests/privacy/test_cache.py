"""The cache of calculations: it saves time, survives anything done to its file, and never changes a number."""

from __future__ import annotations

import logging
import math
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fedsim.privacy import accounting, cache, calibration
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.cache import remembered
from fedsim.privacy.calibration import calibrate_noise
from fedsim.privacy.events import Composition, Event, compose


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps every answer, however quick."""
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "WORTH_SECONDS", 0.0)
    cache._warned.clear()
    epsilon.cache_clear()
    return tmp_path / "cache"


def never() -> float:
    raise AssertionError("this had been answered")


def rows(folder: Path) -> list[tuple[str, str, float]]:
    with closing(sqlite3.connect(folder / "accounting.db")) as db:
        return db.execute("SELECT version, question, value FROM answers ORDER BY question").fetchall()


def overwrite(folder: Path, value: object) -> None:
    """Put ``value`` in place of every answer, past the column's type where SQLite lets it."""
    with closing(sqlite3.connect(folder / "accounting.db")) as db, db:
        db.execute("UPDATE answers SET value = ?", (value,))


@pytest.mark.parametrize("value", [0.0, 1 / 3, 5e-324, 1.7976931348623157e308, math.inf])
def test_an_answer_comes_back_to_the_bit_and_is_not_computed_again(value):
    assert remembered("question", lambda: value) == value
    assert remembered("question", never) == value


def test_an_answer_is_for_its_question_and_its_code_only(folder, monkeypatch):
    remembered("question", lambda: 1.0)
    assert remembered("question ", lambda: 2.0) == 2.0
    monkeypatch.setattr(cache, "VERSION", "other code")
    assert remembered("question", lambda: 3.0) == 3.0
    assert len(rows(folder)) == 3


def test_the_version_changes_with_any_file_that_decides_a_number(tmp_path, monkeypatch):
    sources = Path(cache.__file__).parent
    for name in ("events.py", "accounting.py", "accounting_pld.py", "accounting_rdp.py", "calibration.py"):
        copy = tmp_path / name
        copy.mkdir()
        for source in sources.glob("*.py"):
            (copy / source.name).write_bytes(source.read_bytes())
        monkeypatch.setattr(cache, "__file__", str(copy / "cache.py"))
        assert cache._version() == cache.VERSION
        (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
        assert cache._version() != cache.VERSION


def test_without_the_text_of_the_code_nothing_is_kept(folder, tmp_path, monkeypatch):
    (tmp_path / "bare").mkdir()
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "bare" / "cache.py"))
    assert cache._version() == ""
    monkeypatch.setattr(cache, "VERSION", "")
    assert remembered("question", lambda: 1.0) == 1.0
    assert not folder.exists()


def test_quick_answers_and_what_is_not_a_number_are_not_kept(folder, monkeypatch):
    assert math.isnan(remembered("nan", lambda: math.nan))
    assert remembered("negative", lambda: -1.0) == -1.0
    monkeypatch.setattr(cache, "WORTH_SECONDS", 60.0)
    assert remembered("quick", lambda: 1.0) == 1.0
    assert not folder.exists()


def test_an_error_is_passed_on_and_not_kept():
    with pytest.raises(AssertionError, match="had been answered"):
        remembered("question", never)
    assert remembered("question", lambda: 1.0) == 1.0


@pytest.mark.parametrize("value", ["text", b"bytes", -1.0, -math.inf])
def test_a_kept_value_that_is_no_answer_is_computed_again_with_a_warning(value, folder, caplog):
    remembered("question", lambda: 1.0)
    overwrite(folder, value)
    assert remembered("question", lambda: 2.0) == 2.0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert remembered("question", never) == 2.0


def test_a_kept_value_must_hold():
    remembered("question", lambda: 1.0)
    assert remembered("question", lambda: 2.0, holds=lambda value: value > 1) == 2.0
    assert remembered("question", never, holds=lambda value: value > 1) == 2.0


def break_file(folder: Path) -> None:
    folder.mkdir()
    (folder / "accounting.db").write_bytes(b"this is not a database" * 100)


def break_folder(folder: Path) -> None:
    folder.write_text("a file where the folder should be")


def break_table(folder: Path) -> None:
    folder.mkdir()
    with closing(sqlite3.connect(folder / "accounting.db")) as db:
        db.execute("CREATE TABLE answers (something TEXT)")


def make_directory(folder: Path) -> None:
    (folder / "accounting.db").mkdir(parents=True)


@pytest.mark.parametrize("spoil", [break_file, break_folder, break_table, make_directory])
def test_a_broken_cache_is_skipped_with_one_warning(spoil, folder, caplog):
    spoil(folder)
    for value in (1.0, 2.0, 3.0):
        assert remembered("question", lambda value=value: value) == value
    assert len(caplog.records) == 1
    assert str(folder) in caplog.text
    assert "FEDSIM_CACHE" in caplog.text


def test_an_empty_file_is_taken_for_a_new_cache(folder, caplog):
    folder.mkdir()
    (folder / "accounting.db").touch()
    assert remembered("question", lambda: 1.0) == 1.0
    assert remembered("question", never) == 1.0
    assert not caplog.records


def test_a_locked_cache_does_not_stop_anything(folder, caplog, monkeypatch):
    monkeypatch.setattr(cache, "_LOCK_SECONDS", 0.05)
    remembered("first", lambda: 1.0)
    with closing(sqlite3.connect(folder / "accounting.db", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        assert remembered("second", lambda: 2.0) == 2.0
    assert "locked" in caplog.text
    assert remembered("second", lambda: 3.0) == 3.0


def test_the_warning_reaches_standard_error_once(folder):
    break_file(folder)
    script = "from fedsim.privacy.cache import remembered; print([remembered('q', lambda: 1.0) for _ in range(3)])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[1.0, 1.0, 1.0]\n"
    assert len(done.stderr.splitlines()) == 1
    assert str(folder) in done.stderr


WRITER = """
import sys
from fedsim.privacy import cache
cache.WORTH_SECONDS, cache._LOCK_SECONDS = 0.0, 60.0
for i in range(25):
    own, shared = f"{sys.argv[1]} {i}", f"all {i}"
    assert cache.remembered(own, lambda: float(i)) == cache.remembered(shared, lambda: float(i)) == i
"""


def test_processes_share_the_file(folder):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(number)], stderr=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    for writer in writers:
        assert (writer.communicate(timeout=120)[1], writer.returncode) == ("", 0)
    kept = rows(folder)
    assert len(kept) == 4 * 25 + 25
    assert all(value == float(question.split()[1]) for _, question, value in kept)


def test_where_the_file_lies(tmp_path, monkeypatch):
    assert cache._file() == tmp_path / "cache" / "accounting.db"
    monkeypatch.setenv("FEDSIM_CACHE", "")
    assert cache._file() is None
    assert [remembered("question", lambda value=value: value) for value in (1.0, 2.0)] == [1.0, 2.0]
    monkeypatch.delenv("FEDSIM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache._file() == tmp_path / "xdg" / "fedsim" / "accounting.db"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache._file() == tmp_path / "home" / ".cache" / "fedsim" / "accounting.db"
    assert os.listdir(tmp_path) == []


# What it is used for

STEP = Event(1.1, 0.01, "poisson")


def at(noise: float) -> Composition:
    return compose([(Event(noise, 0.01, "poisson"), 500)])


def forget(monkeypatch: pytest.MonkeyPatch, answer: Callable[..., float]) -> None:
    """As in a new process, in which ``answer`` replaces the computation of any epsilon by distributions."""
    epsilon.cache_clear()
    monkeypatch.setattr(accounting, "rough_epsilon", answer)
    monkeypatch.setattr(calibration, "rough_epsilon", answer)


def test_an_epsilon_is_computed_once_by_all_processes(monkeypatch):
    composition = compose([(STEP, 700)])
    first = epsilon(composition, 1e-5)
    forget(monkeypatch, lambda *_: never())
    assert epsilon(composition, 1e-5) == first
    for other in ((compose([(STEP, 701)]), 1e-5), (composition, 1.0000000000000002e-5)):
        with pytest.raises(AssertionError, match="had been answered"):
            epsilon(*other)


def test_closed_forms_are_not_kept(folder):
    assert epsilon(compose([(Event(2.0), 3)]), 1e-5) > 0
    assert epsilon(compose([(Event(0.0, 0.0, "poisson"), 3)]), 1e-5) == 0
    assert not folder.exists()


def test_a_calibration_is_computed_once_by_all_processes(monkeypatch):
    noise = calibrate_noise(at, 1.5, 1e-5)
    monkeypatch.setattr(calibration, "_least_noise", lambda *_: never())
    assert calibrate_noise(at, 1.5, 1e-5) == noise
    others = [
        (at, 1.5000000000000002, 1e-5, None),
        (at, 1.5, 1.1e-5, None),
        (at, 1.5, 1e-5, 0.9),
        (lambda z: compose([(Event(z, 0.01, "poisson"), 501)]), 1.5, 1e-5, None),
        (lambda z: compose([*at(z), (STEP, 1)]), 1.5, 1e-5, None),
    ]
    for other in others:
        with pytest.raises(AssertionError, match="had been answered"):
            calibrate_noise(*other)


@pytest.mark.parametrize("factor", [0.999, 0.5, 0.0])
def test_too_little_noise_is_never_taken_from_the_cache(factor, folder):
    noise = calibrate_noise(at, 1.5, 1e-5)
    overwrite(folder, factor * noise)
    epsilon.cache_clear()
    with closing(sqlite3.connect(folder / "accounting.db")) as db, db:
        db.execute("DELETE FROM answers WHERE question LIKE 'epsilon%'")
    again = calibrate_noise(at, 1.5, 1e-5)
    assert again == noise
    assert epsilon(at(again), 1e-5) <= 1.5


def test_functions_that_only_look_alike_where_they_are_probed_still_get_enough_noise():
    """The first never has less noise than 5, so next to none is enough; the second must not be given that answer."""

    def floor(noise: float) -> Composition:
        return at(noise if noise == 0 or noise in calibration._PROBES else max(noise, 5.0))

    assert calibrate_noise(floor, 1.5, 1e-5) == pytest.approx(1e-3)
    assert epsilon(at(calibrate_noise(at, 1.5, 1e-5)), 1e-5) <= 1.5
