"""Other simulators, each in an environment and in a process of its own that runs one round for each line it is sent."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import EngineFailed
from benchmarks.workloads import save_data

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".bench"
TORCH = "torch==2.13.0"  # first and exactly, as in scripts/install
ANSWER_SECONDS = 300.0
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # by default Ray's workers give way to every other process
    "OMP_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",
}


class PeerFailed(EngineFailed):
    """A peer cannot be installed or started, or it has ended."""


@dataclass(frozen=True)
class Peer:
    """What a peer needs, and how its process is started; ``stopped`` while it waits, if waiting costs it CPU time."""

    name: str
    requirements: tuple[str, ...]
    command: tuple[str, ...]
    stopped: bool = False

    def install(self) -> Path:
        """The peer's Python, in an environment that is made at first use; raises ``PeerFailed``."""
        folder, wanted = make_cache() / self.name, "\n".join((TORCH, *self.requirements)) + "\n"
        python, stamp = folder / "bin" / "python", folder / "installed"
        if not (stamp.exists() and stamp.read_text() == wanted):
            pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
            _call([sys.executable, "-m", "venv", str(folder)])
            _call([*pip, TORCH])
            _call([*pip, *self.requirements])
            stamp.write_text(wanted)
        return python


PEERS = {
    peer.name: peer
    for peer in (
        Peer("flower", ("flwr[simulation]==1.41.*", "opacus>=1.6,<2"), ("-m", "benchmarks.flower_peer"), stopped=True),
        Peer(
            "pfl",
            ("pfl==0.6.0",),
            ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "benchmarks.pfl_peer"),
        ),
    )
}


def make_cache() -> Path:
    """The folder of environments and data, which git ignores."""
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    return CACHE


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise PeerFailed(lines[-1] if lines else f"{command[0]} ended with {done.returncode}")


class PeerProcess:
    """A running peer."""

    def __init__(self, peer: Peer, workloads: list[str]) -> None:
        self.peer = peer
        python = peer.install()
        for workload in workloads:
            save_data(workload, CACHE / "data")
        self.log = CACHE / f"{peer.name}.log"
        environment = os.environ | QUIET | {"PYTHONPATH": str(ROOT), "FEDSIM_BENCH_DATA": str(CACHE / "data")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), *peer.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the bench, which ends its peers
            )

    def seconds(self, workload: str, mode: str) -> float:
        """Run one round and return its time."""
        return float(self._ask(workload=workload, mode=mode, check=False)["seconds"])

    def difference(self, workload: str, mode: str) -> float:
        """Run one round without dropout, clipping and noise; how far its update is from the plain loop's."""
        return float(self._ask(workload=workload, mode=mode, check=True)["difference"])

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write((json.dumps(command) + "\n").encode())
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
            answer = json.loads(self.process.stdout.readline()) if ready else {"error": "no answer"}
        except (OSError, ValueError) as error:
            answer = {"error": f"its process ended ({error})"}
        if "error" in answer:
            raise PeerFailed(f"{answer['error'].strip().splitlines()[-1]} (see {self.log.relative_to(ROOT)})")
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        """Stop the peer while others are measured, if it would not be idle: Flower looks for messages all the time."""
        if self.peer.stopped and self.process.poll() is None:
            self.process.send_signal(number)

    def close(self) -> None:
        """End the process: politely, then by its id."""
        assert self.process.stdin
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            self.process.kill()
            self.process.wait()
