"""fedsim phones nobody: its commands work where there is nobody to phone, and do not try."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import matplotlib
import pytest

from tests.supply_chain.locked import ROOT
from tests.supply_chain.offline import noting, quarantine

QUICKSTART = ROOT / "scenarios" / "quickstart.toml"
# All of them in one process, as importing takes longer than they do; then what anybody tried, also below Python.
COMMANDS = """
import json, os, sys
from fedsim.cli import main
from tests.supply_chain.offline import attempts

for words in json.loads(sys.argv[1]):
    sys.argv = ["fedsim", *(os.fsdecode(word.encode()) for word in words)]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, (words, stop.code)
print("attempts:", attempts())
"""


def in_quarantine(code, *arguments, noted, **changes):
    """Run Python code where there is nobody else; skips the test where such a place cannot be made."""
    if not (alone := quarantine()):
        pytest.skip("no network namespace may be made here (unshare -n)")
    environment = {key: value for key, value in (noting(noted) | changes).items() if value is not None}
    command = [*alone, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=changes.get("PWD"))


def test_commands_need_no_network_and_try_none(tmp_path):
    """Where nothing helps either: no home, no locale, and a folder whose name is not ASCII."""
    folder = tmp_path / "ein Ördner"
    folder.mkdir()
    (folder / "mein Lauf.toml").write_text(QUICKSTART.read_text())
    commands = [
        ["run", "mein Lauf.toml", "--quiet", "--out", "lauf ä", "--set", "rounds=2"],
        ["run", "mein Lauf.toml", "--quiet", "--out", "zwei", "--set", "rounds=1"],
        ["check", str(QUICKSTART)],
        ["report", "lauf ä", "--format", "md"],
        ["plan", "--rate", "0.1", "--noise", "1.1", "--steps", "10", "--delta", "1e-5"],
        ["export", "lauf ä", "--to", "csv"],
        ["compare", "lauf ä", "zwei"],
    ]
    bare = {"PWD": str(folder), "HOME": None, "XDG_CACHE_HOME": None, "LC_ALL": "C", "LANG": "C", "TERM": "dumb"}
    # Matplotlib's list of fonts takes seconds to make, so this process' is used.
    bare |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "MPLCONFIGDIR": matplotlib.get_cachedir()}
    done = in_quarantine(COMMANDS, json.dumps(commands), noted=tmp_path / "noted", **bare)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "attempts: 0"
    assert not (tmp_path / "noted").exists(), (tmp_path / "noted").read_text()
    assert (folder / "lauf ä" / "report.html").exists()


CALLS = """
import ctypes, socket
for name in ("connect", "sendto"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if name == "sendto" else socket.SOCK_STREAM) as one:
        try:
            one.connect(("192.0.2.1", 9)) if name == "connect" else one.sendto(b"x", ("192.0.2.1", 9))
        except OSError:
            pass
address = (ctypes.c_char * 16).from_buffer_copy(b"\\2\\0\\0\\11\\300\\0\\2\\1" + bytes(8))  # unseen by Python
ctypes.CDLL(None).connect(socket.socket(socket.AF_INET).detach(), address, 16)
from tests.supply_chain.offline import attempts
print("attempts:", attempts())
"""


def test_an_attempt_would_be_seen(tmp_path):
    done = in_quarantine(CALLS, noted=tmp_path / "noted")
    assert done.stdout.strip() == "attempts: 3", done.stderr
    noted = (tmp_path / "noted").read_text().splitlines()
    assert [line.split(" by ")[0] for line in noted] == [
        "socket.connect ('192.0.2.1', 9)",
        "socket.sendto ('192.0.2.1', 9)",
    ]


def test_the_switches_are_off_before_the_libraries_are_imported():
    """Flower's own runtime and Ray start processes of theirs, which take these from the environment."""
    code = "import os, json, fedsim, sys; print(json.dumps([dict(os.environ), 'flwr' in sys.modules]))"
    loud = {"FLWR_TELEMETRY_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=os.environ | loud)
    environment, imported = json.loads(done.stdout)
    assert not imported
    off = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    off |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
    assert {name: environment[name] for name in off} == off


def test_flower_and_ray_understand_the_switches():
    from flwr.supercore import telemetry, update_check

    assert telemetry.FLWR_TELEMETRY_ENABLED == "0"
    assert update_check.FLWR_DISABLE_UPDATE_CHECK == "FLWR_DISABLE_UPDATE_CHECK"
    usage = pytest.importorskip("ray._common.usage.usage_lib", reason="Ray is not installed")
    assert not usage.usage_stats_enabled()
