"""Flower's own runtime: ``flwr run`` finishes the quickstart with the numbers of ``fedsim run``, and sends no code."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_project_dir

from fedsim.engines.flower import await_nodes, sent_file
from fedsim.errors import FedsimError

ROOT = Path(__file__).parents[2]
FLWR = Path(sys.executable).parent / "flwr"
FINISH_SECONDS = 400


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # Flower's, with pathspec 1.1
def test_the_app_that_is_sent_has_scenarios_and_no_code():
    names = zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))).namelist()
    assert "scenarios/quickstart.toml" in names
    assert not [name for name in names if name.endswith((".py", ".npz", ".csv"))]


def test_nodes_are_awaited_for_a_while():
    class Late:
        looks = 0

        def get_node_ids(self):
            self.looks += 1
            return [5] if self.looks > 2 else []

    late = Late()
    await_nodes(late)
    assert late.looks == 3
    with pytest.raises(FedsimError, match="No node has connected"):
        await_nodes(SimpleNamespace(get_node_ids=list), seconds=0)


def test_a_scenario_is_taken_from_what_was_sent_else_from_here(monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    run = SimpleNamespace(fab_id="fedsim/fedsim", fab_version="0.1.0", fab_hash="a" * 64)
    grid = SimpleNamespace(run=run)
    folder = get_project_dir(run.fab_id, run.fab_version, run.fab_hash)
    (folder / "scenarios").mkdir(parents=True)
    (folder / "scenarios" / "x.toml").write_text("")
    assert sent_file(grid, "scenarios/x.toml") == folder / "scenarios" / "x.toml"
    assert sent_file(grid, "scenarios/y.toml") == Path("scenarios/y.toml")


def output_of(command: list[str | Path], folder: Path, env: dict[str, str]) -> str:
    """What a command prints that must succeed."""
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=FINISH_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def processes_with(value: str) -> list[int]:
    """Living processes whose environment has a value."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if value.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it ended, or is another user's
            continue
    return [process for process in found if process != os.getpid()]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_flwr_run_finishes_the_quickstart_with_the_numbers_of_fedsim_run(tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    ports = {f"FLWR_LOCAL_{name}_PORT": free_port() for name in ("SUPERLINK_HTTP_API", "CONTROL_API")}
    env = os.environ | ports | {"FLWR_HOME": str(home), "PYTHONPATH": str(ROOT)}
    env |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    env |= {"FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "PATH": f"{FLWR.parent}{os.pathsep}{env['PATH']}"}
    env["RAY_ADDRESS"] = "local"  # or Flower would join whatever cluster runs on this machine
    try:
        output_of([FLWR, "run", ROOT], work, env)
        scenario = ROOT / "scenarios" / "quickstart.toml"
        ours = output_of([sys.executable, "-m", "fedsim.cli", "run", scenario, "--quiet", "--json"], tmp_path, env)
        end = time.monotonic() + FINISH_SECONDS
        while not (found := list(work.glob("runs/*/report.html"))) and time.monotonic() < end:
            time.sleep(0.5)
        log = (home / "local-superlink" / "superlink.log").read_text()
        assert found, log
        summary, expected = json.loads((found[0].parent / "summary.json").read_text()), json.loads(ours)
        assert summary["engine"] == "flower"
        assert summary["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)
        assert [unit["epsilon"] for unit in summary["privacy"]] == [unit["epsilon"] for unit in expected["privacy"]]
        assert not (home / "runtime-envs").exists(), "dependencies were installed at run time"
    finally:
        for process in processes_with(f"FLWR_HOME={home}"):
            os.kill(process, signal.SIGKILL)
