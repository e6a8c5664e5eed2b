"""Real processes over TLS: one server, four hospitals and a site that refuses, as on six machines."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fedsim
from fedsim.deployment.folders import Address, init
from tests.deployment.real import Hosts, RealDeployment

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
SCENARIO = Path(__file__).parents[2] / "scenarios" / "heart_disease.toml"
# One step on all records a round: then simulation and deployment draw nothing, and must agree.
WHOLE = ("rounds=3", "algorithm.local.batch_size=1000", "algorithm.local.learning_rate=0.5")
SLOW = 240.0

ASK_CONTROL = """
import sys
from pathlib import Path
from fedsim.deployment.control import Control
try:
    print("run", Control(sys.argv[1], Path(sys.argv[2])).start_run())
except Exception as error:
    print(error)
"""


@pytest.fixture
def hosts() -> Iterator[Hosts | None]:
    if not Hosts.possible():
        yield None
        return
    with Hosts() as made:
        yield made


def hospital_files() -> dict[str, Path]:
    root = os.environ.get("FEDSIM_DATA")
    files = {name: Path(root or "") / "heart_disease" / f"processed.{name}.data" for name in HOSPITALS}
    if root is None or not all(file.exists() for file in files.values()):
        pytest.skip("FEDSIM_DATA has no heart_disease")
    return files


@pytest.mark.slow
def test_four_hospitals_reach_what_the_simulation_reaches(tmp_path: Path, hosts: Hosts | None):
    files = hospital_files()
    simulated = fedsim.run(fedsim.load_scenario(SCENARIO, WHOLE), tmp_path / "simulated")
    sites = files | {"zurich": files["va"]}  # its policy stays as it was made: no runs without privacy
    with RealDeployment(tmp_path, sites, hosts) as made:
        for name in HOSPITALS:
            made.set(name, without_privacy="true", send_metrics="true")
        made.start_server()
        made.wait_for("server", "Serving 5 site(s)", SLOW)
        for name in sites:
            made.start_site(name)
        overrides = [word for setting in (*WHOLE, "engine.deployment.join_seconds=200") for word in ("--set", setting)]
        process = made.run(SCENARIO, tmp_path / "run", "--json", *overrides)
        made.until((tmp_path / "run" / "sites.json").exists, SLOW, made.log("run"))
        look_from_outside(made, hosts, tmp_path)
        assert process.wait(SLOW) == 0, made.log("run")
        assert "refused" in made.log("zurich")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for name in ("accuracy", "loss"):
        assert summary["metrics"][name] == pytest.approx(simulated.metrics[name], abs=1e-6)
    assert [site["name"] for site in summary["sites"]] == sorted(HOSPITALS)
    assert [site["dropped"] + site["rejected"] + site["refused"] for site in summary["sites"]] == [0, 0, 0, 0]
    assert "without_privacy" in (tmp_path / "run" / "sites.jsonl").read_text()
    assert summary["rounds"] == 3
    for file in ("report.html", "model.safetensors", "rounds.jsonl", "ledger.db", "environment.json"):
        assert (tmp_path / "run" / file).exists()


def look_from_outside(made: RealDeployment, hosts: Hosts | None, folder: Path) -> None:
    """What somebody sees who is no registered site: nothing, by TLS or without it."""
    stranger = folder / "stranger"
    init(stranger, ["va"], made.address)  # another authority, another key
    site = stranger / "site-va"
    assert "FAIL certificate" in check(made, site)
    (site / "ca.crt").write_bytes((made.deployment / "server" / "ca.crt").read_bytes())
    assert "FAIL key: the server does not know it" in check(made, site)
    if hosts is None:
        with contextlib.suppress(ConnectionResetError), socket.create_connection(("localhost", made.address.port)) as s:
            s.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            assert not s.recv(100).startswith(b"HTTP/1.1 2")
        return
    words = (str(made.address), str(made.deployment / "server" / "ca.crt"))
    asked = [*hosts.on("sites"), sys.executable, "-c", ASK_CONTROL, *words]
    found = subprocess.run(asked, capture_output=True, text=True, check=True, env=made.environment())
    assert "refused StartRun: 403" in found.stdout
    plain = f"import socket; s = socket.create_connection({(made.address.host, made.address.port)!r}); s.settimeout(20)"
    plain += "; s.sendall(b'POST /v1/fleet/pull-messages HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: 0\\r\\n\\r\\n')"
    plain += "; print(s.recv(100))"
    tried = subprocess.run(
        [*hosts.on("sites"), sys.executable, "-c", plain], capture_output=True, text=True, check=False
    )
    assert "HTTP/1.1 2" not in tried.stdout


def check(made: RealDeployment, site: Path) -> str:
    """What ``fedsim deploy check`` says on the sites' host."""
    where = made.hosts.on("sites") if made.hosts else []
    command = [*where, sys.executable, "-m", "fedsim.cli", "deploy", "check", str(site)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=made.environment())
    assert found.returncode == 1, found.stdout + found.stderr
    return found.stdout


def test_an_address_is_spelled_as_urls_want_it():
    assert str(Address("::1", 9)) == "[::1]:9"
