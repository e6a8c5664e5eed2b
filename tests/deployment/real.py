"""A deployment of real processes on this machine: one server, sites, all over TLS on the loopback interface.

Also the campaign of kills (``scripts/campaign deploy``): python -m tests.deployment.real [seconds] [seed]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from fedsim.deployment.folders import Address, init
from fedsim.deployment.processes import free_port

ROOT = Path(__file__).parents[2]
Process = subprocess.Popen[bytes]


class Hosts:
    """Two hosts in network namespaces of their own, joined by a cable; needs root and ``ip``."""

    server_address, sites_address = "10.213.77.1", "10.213.77.2"

    def __init__(self) -> None:
        self.names = {"server": f"fedsim{os.getpid()}s", "sites": f"fedsim{os.getpid()}c"}

    @staticmethod
    def possible() -> bool:
        """Whether namespaces can be made here."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        name = f"fedsim{os.getpid()}t"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
        if made:
            subprocess.run(["ip", "netns", "del", name], check=True)
        return made

    def __enter__(self) -> Hosts:
        server, sites = self.names["server"], self.names["sites"]
        for name in (server, sites):
            self._ip("netns", "add", name)
            self._ip("-n", name, "link", "set", "lo", "up")
        self._ip("-n", server, "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", sites)
        for name, cable, address in ((server, "cable0", self.server_address), (sites, "cable1", self.sites_address)):
            self._ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            self._ip("-n", name, "link", "set", cable, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)

    def on(self, host: str) -> list[str]:
        """What comes before a command that runs on one of the hosts."""
        return ["ip", "netns", "exec", self.names[host]]

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)


class RealDeployment:
    """Processes of ``fedsim deploy``, ended by their ids when the block ends."""

    def __init__(self, folder: Path, data: dict[str, Path], hosts: Hosts | None = None) -> None:
        self.folder, self.data, self.hosts = folder, data, hosts
        self.deployment = folder / "d"
        self.address = Address(hosts.server_address if hosts else "localhost", free_port())
        self.processes: dict[str, Process] = {}
        self._logs: list[IO[bytes]] = []
        init(self.deployment, sorted(data), self.address)

    def __enter__(self) -> RealDeployment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self._logs:
            log.close()

    def environment(self) -> dict[str, str]:
        """Flower's files in this deployment's folder, and one thread each."""
        return {**os.environ, "FLWR_HOME": str(self.folder / "flower"), "OMP_NUM_THREADS": "1"}

    def fedsim(self, name: str, *words: str) -> Process:
        """Start a command, its messages in a file of that name."""
        log = open(self.folder / f"{name}.log", "ab")  # noqa: SIM115 (closed at the end)
        self._logs.append(log)
        command = [*self._where(name), sys.executable, "-m", "fedsim.cli", *words]
        process = subprocess.Popen(command, cwd=ROOT, env=self.environment(), stdout=log, stderr=log)
        self.processes[name] = process
        return process

    def _where(self, name: str) -> list[str]:
        """How a command gets onto its host: sites are on one, all else on the other."""
        if self.hosts is None:
            return []
        return self.hosts.on("sites" if name in self.data else "server")

    def set(self, name: str, **values: str) -> None:
        """Change lines of a site's site.toml."""
        file = self.deployment / f"site-{name}" / "site.toml"
        lines = [
            next((f"{key} = {value}" for key, value in values.items() if line.startswith(f"{key} =")), line)
            for line in file.read_text().splitlines()
        ]
        file.write_text("\n".join(lines) + "\n")

    def start_server(self) -> None:
        """The SuperLink, and who watches it."""
        listen = "0.0.0.0" if self.hosts else "127.0.0.1"  # every interface of its own namespace
        self.fedsim("server", "deploy", "server", str(self.deployment), "--listen", listen)

    def start_site(self, name: str) -> None:
        """A site."""
        folder = self.deployment / f"site-{name}"
        self.fedsim(name, "deploy", "site", str(folder), "--data", str(self.data[name]))

    def wait_for(self, name: str, text: str, seconds: float) -> None:
        """Wait until a process has said something; raises AssertionError."""
        self.until(lambda: text in self.log(name), seconds, f"{name} did not say {text!r}:\n{self.log(name)[-2000:]}")

    def log(self, name: str) -> str:
        """What a process has said."""
        file = self.folder / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    @staticmethod
    def until(true: Callable[[], bool], seconds: float, problem: str) -> None:
        """Wait until something is so; raises AssertionError."""
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                raise AssertionError(problem)
            time.sleep(0.1)

    def run(self, scenario: Path, out: Path, *words: str) -> Process:
        """Start ``fedsim run`` over this deployment."""
        chosen = ("--engine", "deployment", "--connection", "d", "--out", str(out))
        return self.fedsim("run", "run", str(scenario), *chosen, *words)

    def kill(self, name: str, child: str | None = None) -> None:
        """kill -9 a process, or its child whose command holds a text."""
        process = self.processes[name]
        if child is None:
            process.kill()
            process.wait()
            return
        for number in children(process.pid):
            if child in Path(f"/proc/{number}/cmdline").read_text():
                os.kill(number, signal.SIGKILL)


def children(parent: int) -> list[int]:
    """The process ids of a process's children."""
    file = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in file.read_text().split()] if file.exists() else []


TABLE = """
rounds = 6
[data]
source = "csv"
path = "site"
label = "ill"
classes = ["no", "yes"]
features = [{ kind = "numeric", name = "a" }, { kind = "numeric", name = "b" }]
[population]
clients = 3
[model]
name = "logistic"
[algorithm]
name = "fedavg"
local = { batch_size = 10, learning_rate = 0.5 }
[privacy.example]
clip_norm = 1.0
noise_multiplier = 2.0
sampling_rate = 0.2
delta = 1e-5
[evaluation]
every = 3
"""


def write_table(file: Path, seed: int) -> Path:
    """Sixty records of a made-up illness."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(60, 2))
    rows = [f"{x:.5f},{y:.5f},{'yes' if x + y > 0 else 'no'}" for x, y in values]
    file.write_text("\n".join(["a,b,ill", *rows]) + "\n")
    return file


def check_ledgers(made: RealDeployment, run: Path) -> list[str]:
    """Every answer that the server counted is in the ledger of the site that gave it, once; returns what is wrong."""
    import sqlite3

    problems = []
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for name in made.data:
        db = sqlite3.connect(made.deployment / f"site-{name}" / "ledger.db")
        charged = db.execute("SELECT run, round, count FROM charges").fetchall()
        db.close()
        if len({(run_id, round_) for run_id, round_, _ in charged}) != len(charged):
            problems.append(f"{name}: {charged} holds a round twice")
        if any(count != 5 for *_, count in charged):
            problems.append(f"{name}: {charged} holds a round that is not 5 steps")
        lost = {line["round"] for line in _log(run) if line["site"] == name and line["what"] != "accepted"}
        missing = {row["round"] for row in rows} - lost - {round_ for _, round_, _ in charged}
        if missing:
            problems.append(f"{name}: its answers in rounds {sorted(missing)} counted, but are not in its ledger")
    return problems


def _log(run: Path) -> list[dict[str, Any]]:
    file = run / "sites.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def campaign(folder: Path, seconds: float, seed: int) -> int:
    """Kill sites, the SuperLink and the run's own process at random moments; the run must finish, the ledgers hold."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    names = ("a", "b", "c")
    data = {name: write_table(folder / f"{name}.csv", number) for number, name in enumerate(names)}
    scenario = folder / "scenario.toml"
    scenario.write_text(TABLE.replace("rounds = 6", f"rounds = {max(6, int(seconds / 5))}"))
    with RealDeployment(folder, data) as made:
        for name in names:
            made.set(name, send_metrics="true", max_epsilon_example="50.0")
        made.start_server()
        made.wait_for("server", "Serving", 120)
        for name in names:
            made.start_site(name)
        out, words = folder / "run", ("--set", "engine.deployment.round_seconds=120")
        process = made.run(scenario, out, "--set", "engine.deployment.join_seconds=180", *words)
        made.until((out / "sites.json").exists, 300, made.log("run"))
        began = time.monotonic()
        while (code := process.poll()) != 0:
            if code is not None:
                process = made.fedsim("run", "resume", str(out))
            time.sleep(float(rng.exponential(8.0)))
            if time.monotonic() - began < seconds and process.poll() is None:
                _strike(made, rng)
        problems = check_ledgers(made, out)
        rounds = len((out / "rounds.jsonl").read_text().splitlines())
        print(f"campaign: {rounds} rounds in {time.monotonic() - began:.0f} s; {problems or 'every ledger is right'}")
        return 1 if problems else 0


def _strike(made: RealDeployment, rng: np.random.Generator) -> None:
    victim = str(rng.choice(["site", "supernode", "superlink", "server", "run"]))
    name = str(rng.choice(["a", "b", "c"]))
    print(f"campaign: kill -9 {victim} {name if victim in ('site', 'supernode') else ''}", flush=True)
    if victim == "site":
        made.kill(name)
        made.start_site(name)
    elif victim == "supernode":
        made.kill(name, "supernode")
    elif victim == "superlink":
        made.kill("server", "superlink")
    elif victim == "server":
        made.kill("server")
        time.sleep(3)
        made.start_server()
    else:
        made.kill("run")


if __name__ == "__main__":
    import tempfile

    length, start = [float(word) for word in [*sys.argv[1:], "120", "0"][:2]]
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(campaign(Path(scratch) / "campaign", length, int(start)))
