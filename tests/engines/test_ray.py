"""The Ray engine gives the numbers of the in-process one, outlives its actors' deaths, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedsim
from fedsim.errors import BadInput
from fedsim.loading import parse_scenario
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL

ray = pytest.importorskip("ray", reason="Ray is not installed")

ROOT = Path(__file__).parents[2]
BOTH = SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY
RAY = 'engine={kind="ray", workers=2}'
DYING = ['model={name="tests.engines.dying_model:Dying"}', "rounds=5"]


def rows_of(directory: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (directory / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(ours: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(ours) == len(expected)
    for row, other in zip(ours, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-6)


def ray_processes() -> set[int]:
    """Every process of Ray that lives and was started by this worker of the test run, or below it."""
    found = set()
    names = ("PYTEST_XDIST_TESTRUNUID", "PYTEST_XDIST_WORKER")
    ours = [f"{name}={os.environ[name]}".encode() for name in names if name in os.environ]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, state = (
                (entry / "cmdline").read_bytes(),
                (entry / "stat").read_text().rpartition(")")[2].split()[0],
            )
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        theirs = not all(one in environment for one in ours)
        if state != "Z" and not theirs and (b"ray::" in command or b"/ray/" in command):
            found.add(int(entry.name))
    return found


def gone(processes: set[int], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while processes & ray_processes() and time.monotonic() < end:
        time.sleep(0.2)
    return not processes & ray_processes()


def folders() -> set[Path]:
    return set(Path("/tmp").glob("fedsim-ray-*"))


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the processes in /proc")
def test_an_interrupted_run_leaves_no_process_and_goes_on_to_the_same_numbers(tmp_path):
    before, folders_before = ray_processes(), folders()
    (tmp_path / "small.toml").write_text(BOTH)
    command = [sys.executable, "-m", "fedsim.cli", "run", tmp_path / "small.toml", "--quiet", "--out", tmp_path / "ray"]
    command += ["--set", RAY, "--set", "rounds=2000"]
    # A group of its own, all of which gets the signal, as from Ctrl-C.
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        rounds = tmp_path / "ray" / "rounds.jsonl"
        end = time.monotonic() + 300
        while not (rounds.exists() and rounds.read_text().count("\n") > 2) and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.1)
        started = ray_processes() - before
        assert started
        # Ray runs what anybody sends it, so no other machine may reach it, nor another user of this one.
        assert not listening_to_others(started)
        # It would ask the network in which cloud it is, for statistics that are switched off.
        assert not [one for one in started if b"dashboard/dashboard.py" in Path(f"/proc/{one}/cmdline").read_bytes()]
        # Workers write their titles over their environment, so the servers' is looked at.
        servers = [one for one in started if serves(one)]
        assert servers
        assert all(b"RAY_AUTH_MODE=token" in Path(f"/proc/{one}/environ").read_bytes() for one in servers)
        os.killpg(process.pid, signal.SIGINT)
        stderr = process.communicate(timeout=240)[1]
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 130, stderr
    assert gone(started)
    assert folders() <= folders_before
    done = rows_of(tmp_path / "ray")
    expected = fedsim.run(parse_scenario(BOTH, "small", [f"rounds={min(len(done), 20)}"]), tmp_path / "inprocess")
    assert_same(done[:20], rows_of(expected.directory))
    assert np.isfinite(done[0]["epsilon_example"])


def listening_to_others(processes: set[int]) -> list[str]:
    """Addresses but the machine's own at which processes listen."""
    sockets = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(os.readlink(file))
            except OSError:
                continue
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            # 0A is LISTEN; 7F in the last byte of the address, which comes first, is 127.
            if state == "0A" and f"socket:[{inode}]" in sockets and "0100007F:" not in local:
                found.append(local)
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[set[int]]:
    """Two raylets with a core each on the loopback, which the test's own process has joined; their processes."""
    from ray._private import ray_constants
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    (tmp_path / "deaths").mkdir()
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))
    before = ray_processes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a short path, and nobody else's cluster
        options = {"num_cpus": 1, "temp_dir": folder}
        made = Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
        try:
            made.add_node(**options)
            ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
            yield ray_processes() - before
        finally:
            ray.shutdown()
            made.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def test_actors_on_two_machines_share_the_work_and_their_deaths_lose_nothing(cluster, tmp_path):
    # By dying_model.py, in round 2 an actor dies once, and its clients are trained again. In round 4 it dies again over
    # them, and they drop out.
    expected = fedsim.run(parse_scenario(BOTH, "small", DYING), tmp_path / "inprocess")
    result = fedsim.run(parse_scenario(BOTH, "small", [*DYING, RAY]), tmp_path / "ray")
    assert result.summary["trainer_reason"].endswith("in 2 Ray actor(s) on 2 machine(s), on cpu")
    rows = rows_of(result.directory)
    assert sorted(file.name for file in (tmp_path / "deaths").iterdir()) == ["2-0", "4-0", "4-1"]
    assert_same(rows[:3], rows_of(expected.directory)[:3])
    assert [row["dropped"] for row in rows] == [0, 0, 0, 3, 0]
    assert [row["epsilon_example"] for row in rows] == [row["epsilon_example"] for row in rows_of(expected.directory)]
    assert ray.is_initialized(), "the cluster was not ours to stop"
    assert sum(map(serves, cluster)) >= 3, "the head and both raylets go on; idle workers may end"
    with pytest.raises(BadInput, match="the cluster has room for 2 actors"):
        fedsim.run(parse_scenario(SMALL, "small", [RAY, "engine.workers=3"]), tmp_path / "many")
    with pytest.raises(BadInput, match="no machine of the cluster has that much"):
        fedsim.run(parse_scenario(SMALL, "small", [RAY, "engine.resources={cpu=2}"]), tmp_path / "large")
    assert not (tmp_path / "many").exists()


def serves(process: int) -> bool:
    """Whether it lives and is one of the cluster's servers."""
    try:
        program = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return False
    return program.endswith((b"/gcs_server", b"/raylet"))


def test_where_no_cluster_answers_nothing_is_written(tmp_path):
    scenario = parse_scenario(SMALL, "small", ['engine={kind="ray", address="127.0.0.1:9"}'])
    with pytest.raises(BadInput, match=r'engine.address = "127.0.0.1:9": no cluster answers there'):
        fedsim.run(scenario, tmp_path / "run")
    assert not (tmp_path / "run").exists()
