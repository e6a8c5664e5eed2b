"""``fedsim deploy server``: the SuperLink of a deployment, the sites' keys in it, and Flower's connection to it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from fedsim.deployment.control import Control
from fedsim.deployment.folders import connection_name
from fedsim.deployment.keys import registered_key
from fedsim.deployment.processes import check_free, end, environment, only_one, start, stop_on_signals, wait_for_port
from fedsim.errors import BadInput, FedsimError

START_SECONDS = 90.0
RETRY_SECONDS = 2.0


def serve(folder: Path, listen: str, say: Callable[[str], None]) -> None:
    """Run the SuperLink until it is stopped, and again if it dies; raises ``BadInput`` for a folder that is none."""
    server, port = _server_folder(folder), server_port(folder)
    keys = site_keys(server)
    os.environ.update(environment())
    stop_on_signals()
    with only_one(server), contextlib.suppress(KeyboardInterrupt):
        name = write_connection(folder, port)
        say(f"Run a scenario here with: fedsim run SCENARIO --engine deployment --connection {name}")
        while True:
            code = _serve_once(server, (listen, port), keys, say)
            say(f"The SuperLink ended (exit code {code}); starting it again in {RETRY_SECONDS:g} s.")
            time.sleep(RETRY_SECONDS)
    say("Stopped.")


def _serve_once(server: Path, where: tuple[str, int], keys: dict[str, bytes], say: Callable[[str], None]) -> int:
    """Run a SuperLink with these keys until it ends; returns its exit code."""
    listen, port = where
    check_free(listen, port)
    process = start("superlink", _options(server, listen, port), server / "flower", None)
    try:
        if not wait_for_port(process, port, START_SECONDS):
            raise FedsimError(f"The SuperLink did not start; is port {port} taken? Its messages are above.")
        with contextlib.closing(Control(f"127.0.0.1:{port}", server / "ca.crt")) as control:
            added, removed = control.register_only(keys)
        say(f"Serving {len(keys)} site(s) on {listen}:{port} ({added} key(s) new, {removed} revoked).")
        return process.wait()
    finally:
        end(process)


def _server_folder(folder: Path) -> Path:
    server = folder / "server"
    if not (server / "server.crt").exists():
        raise BadInput(f"{folder} is no deployment: it has no server/server.crt. Make one by: fedsim deploy init")
    return server


def server_port(folder: Path) -> int:
    """The port that the deployment was made for."""
    return int((folder / "server" / "address").read_text().strip().rsplit(":", 1)[1])


def site_keys(server: Path) -> dict[str, bytes]:
    """The registered key of every site by name; raises ``BadInput`` for a file that is no key."""
    keys = {}
    for file in sorted((server / "sites").glob("*.pub")):
        try:
            keys[file.stem] = registered_key(file.read_bytes())
        except ValueError as error:
            raise BadInput(f"{file} is no public key in OpenSSH's format: {error}.") from error
    return keys


def _options(server: Path, listen: str, port: int) -> list[str]:
    """A database, TLS, keys for SuperNodes; no program of Flower's runs an app here, and nothing is installed."""
    return [
        *("--ssl-ca-certfile", str(server / "ca.crt")),
        *("--ssl-certfile", str(server / "server.crt")),
        *("--ssl-keyfile", str(server / "server.key")),
        *("--host", listen, "--port", str(port)),
        *("--database", str(server / "superlink.db")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(server / "runs.secret")),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
    ]


def write_connection(folder: Path, port: int) -> str:
    """Note the connection to this deployment in Flower's own configuration file; returns its name."""
    import tomli_w
    from flwr.cli.constant import FLOWER_CONFIG_FILE
    from flwr.supercore.utils import get_flwr_home

    from fedsim.deployment.control import read_connections

    name, file = connection_name(folder), get_flwr_home() / FLOWER_CONFIG_FILE
    config = read_connections(file)
    certificate = str((folder / "server" / "ca.crt").absolute())
    config.setdefault("superlink", {})[name] = {"address": f"127.0.0.1:{port}", "root-certificates": certificate}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    part.write_text(tomli_w.dumps(config))
    part.replace(file)
    return name
