"""What a run finds around it: clocks, devices, versions, folders, and whoever reads what it prints."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from importlib import metadata
from pathlib import Path

import pytest
import torch

import fedsim
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.federation import build_federation, pick_device
from fedsim.loading import load_scenario, parse_scenario
from fedsim.paths import dated, name_of
from fedsim.record import RunDirectory, environment
from fedsim.versions import check_versions, pinned, wrong
from tests.conftest import CLIENT_PRIVACY, SMALL

PACKAGE = Path(fedsim.__file__).parent
# Where the time of day is asked for: names of folders, certificates, how far two clocks are apart, Flower's messages.
TIME_OF_DAY = {"paths.py", "deployment/keys.py", "deployment/checking.py", "deployment/inflating.py"}


# Clocks


def test_durations_are_measured_by_a_clock_that_nobody_sets():
    asking = re.compile(r"\btime\.time(_ns)?\(|\bdatetime\.(now|today|utcnow)\(|\btime\.(localtime|gmtime|strftime)\(")
    found = {str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py") if asking.search(file.read_text())}
    assert found == TIME_OF_DAY


def test_a_clock_that_jumps_during_a_run_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    steady = fedsim.run(parse_scenario(SMALL + CLIENT_PRIVACY, "x"), tmp_path / "steady")
    jumps = itertools.cycle([0.0, 4e9, 1.0, 1.6e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    jumping = fedsim.run(parse_scenario(SMALL + CLIENT_PRIVACY, "x"), tmp_path / "jumping")
    rows = [
        [json.loads(line) for line in (run.directory / "rounds.jsonl").read_text().splitlines()]
        for run in (steady, jumping)
    ]
    assert [row | {"seconds": 0} for row in rows[0]] == [row | {"seconds": 0} for row in rows[1]]
    assert all(0 < row["seconds"] < 600 for row in rows[1])
    assert 0 < jumping.summary["seconds"]["total"] < 600


def test_files_of_tomorrow_are_read_and_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    fedsim.run(parse_scenario(SMALL, "x"), tmp_path / "run", until=1)
    for file in (tmp_path / "run").rglob("*"):
        os.utime(file, (4e9, 4e9))
    assert fedsim.resume(tmp_path / "run").summary["status"] == "completed"


def test_runs_that_start_in_the_same_second_have_directories_of_their_own(tmp_path, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            """Always the same second."""
            return cls(2026, 3, 29, 2, 30, tzinfo=tz)

    monkeypatch.setattr("fedsim.paths.datetime", Stopped)
    monkeypatch.chdir(tmp_path)
    scenario = parse_scenario(SMALL, "x")
    made = [RunDirectory.create(None, scenario).path for _ in range(3)]
    first = f"runs/x-{scenario.digest}-20260329-023000"
    assert [str(path) for path in made] == [first, f"{first}-2", f"{first}-3"]
    assert all((path / "checkpoint").is_dir() for path in made)
    assert [str(path) for path in itertools.islice(dated("sweeps/s"), 2)][1] == "sweeps/s-20260329-023000-2"
    with pytest.raises(BadInput, match="exists already"):
        RunDirectory.create(made[0], scenario)


# Devices


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_one_clear_error(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(BadInput, match=f'engine.device = "{device}": this machine has none .* try "auto" or "cpu"'):
        build_federation(parse_scenario(SMALL, "x", [f"engine.device={device}"]))
    assert pick_device("auto") == torch.device("cpu")


# Versions


@pytest.fixture
def installed(monkeypatch):
    """Makes packages have versions that they do not have."""
    versions: dict[str, str] = {}
    real = metadata.version
    monkeypatch.setattr("fedsim.versions.metadata.version", lambda name: versions.get(name) or real(name))
    check_versions.cache_clear()
    yield versions
    check_versions.cache_clear()


def test_what_is_installed_here_is_what_is_wanted(installed, caplog):
    check_versions()
    assert caplog.records == []
    assert set(pinned()) == {"torch", "flwr"}


def test_another_torch_is_warned_of_once(installed, caplog):
    installed["torch"] = "2.14.1+cu126"
    with caplog.at_level(logging.WARNING, "fedsim"):
        check_versions()
        check_versions()
    assert [record.getMessage() for record in caplog.records] == [
        "torch 2.14.1+cu126 is installed, and fedsim is tested with 2.13.0: numbers may differ from other machines'. "
        'To change it: pip install "torch==2.13.0"'
    ]


def test_another_flower_is_refused_before_it_is_imported(installed, capsys, monkeypatch):
    installed["flwr"] = "1.42.0"
    monkeypatch.setattr(sys, "argv", ["fedsim", "check", "x.toml"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "Flower (flwr) 1.42.0 is installed, and fedsim needs 1.41.*, on whose inner parts it rests: "
        'pip install "flwr==1.41.*"\n'
    )


@pytest.mark.parametrize(
    ("version", "good"), [("1.41", True), ("1.41.0", True), ("1.41.3+x", True), ("1.4.10", False), ("1.410.0", False)]
)
def test_a_range_of_versions_is_understood(version, good, installed):
    installed["flwr"] = version
    assert (wrong("flwr", {"flwr": "1.41.*"}) is None) == good


# Names and folders


@pytest.mark.parametrize(
    ("file", "name"),
    [("my runs ä.toml", "my-runs"), ("größe.toml", "gr-e"), ("ä.toml", "scenario"), ("ok_1.toml", "ok_1")],
)
def test_a_file_may_be_called_anything(file, name, tmp_path):
    (tmp_path / file).write_text(SMALL)
    assert load_scenario(tmp_path / file).name == name
    assert name_of(Path("x" * 300 + ".toml")) == "x" * 100


def test_bytes_that_are_no_text_are_refused_in_a_setting_and_shown_in_the_record(monkeypatch):
    with pytest.raises(BadInput, match=r"--set 'name=\\udcff': it is not UTF-8 text"):
        parse_scenario(SMALL, "x", ["name=\udcff"])
    monkeypatch.setattr(sys, "argv", ["fedsim", "run", "\udcff.toml"])
    assert environment()["command"] == ["fedsim", "run", "\\udcff.toml"]


def shell(line: str) -> tuple[int, bytes, bytes]:
    """What bash says to a line: exit code, output and errors."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    python = {"PYTHONPATH": path, "PYTHON": sys.executable}
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False, env=os.environ | python)
    return done.returncode, done.stdout, done.stderr


def test_a_folder_that_was_removed_is_one_clear_error(tmp_path):
    gone = f"mkdir {tmp_path}/gone && cd {tmp_path}/gone && rmdir {tmp_path}/gone"
    code, out, errors = shell(f"{gone} && $PYTHON -m fedsim.cli run {tmp_path}/x.toml")
    assert (code, out) == (2, b"")
    assert errors == b"The folder that this was started in does not exist any more; change to another one.\n"


# Whoever reads


def test_a_reader_that_stops_is_not_worth_a_word():
    code, out, errors = shell("$PYTHON -m fedsim.cli run --help | head -c 1; exit ${PIPESTATUS[0]}")
    assert (len(out), errors) == (1, b"")
    assert code in (0, 1)  # 0 where all was written before the reader stopped


PRINT = "from fedsim.streams import written_out\nwith written_out(): print({text})"


FULL = b"Standard output cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("size", "reader", "said", "code"),
    [
        (10**6, "| head -c 1; exit ${PIPESTATUS[0]}", b"", 1),
        (10**6, "> /dev/full", FULL, 1),
        (10, "> /dev/full", FULL, 1),
        (10, ">&-", b"", 0),
    ],
)
def test_what_cannot_be_written_is_at_most_one_line(size, reader, said, code, tmp_path):
    (tmp_path / "print.py").write_text(PRINT.format(text=f"'x' * {size}"))
    found = shell(f"$PYTHON {tmp_path}/print.py {reader}")
    assert (found[0], found[2]) == (code, said)


def test_what_a_terminal_cannot_show_is_escaped_and_file_names_stay_as_they_are(tmp_path):
    (tmp_path / "print.py").write_text(PRINT.format(text=r"'\u00b1 \udce4.toml'"))
    assert shell(f"PYTHONIOENCODING=ascii $PYTHON {tmp_path}/print.py") == (0, b"\\xb1 \xe4.toml\n", b"")
