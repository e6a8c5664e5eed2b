"""Flower's Control API, and the connections to it that Flower's configuration file names."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.documents import parse_toml
from fedsim.errors import BadInput, FedsimError

# Flower wants an app's bundle with every run. Nobody runs this one: sites and server run their own fedsim.
BUNDLE = b"""\
[project]
name = "fedsim"
version = "0.1.0"
description = "Runs by the fedsim that is installed"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedsim"
[tool.flwr.app.components]
serverapp = "fedsim.server:app"
clientapp = "fedsim.deployment.site:app"
[tool.flwr.app.config]
scenario = ""
"""


@dataclass(frozen=True)
class Connection:
    """A SuperLink on this machine: its address, the authority's certificate, and the secret to be a run's server."""

    address: str
    certificate: Path
    secret: Path


def read_connections(file: Path) -> dict[str, Any]:
    """Flower's configuration file, empty where there is none; raises ``BadInput``."""
    try:
        return parse_toml(file.read_text()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise BadInput(f"Flower's configuration {file} cannot be read: {error}.") from error


def find_connection(name: str | None) -> Connection:
    """The connection of that name; raises ``BadInput`` that says which there are."""
    from flwr.cli.constant import FLOWER_CONFIG_FILE
    from flwr.supercore.utils import get_flwr_home

    file = get_flwr_home() / FLOWER_CONFIG_FILE
    table = read_connections(file).get("superlink", {})
    known = {key: value for key, value in table.items() if isinstance(value, dict) and "root-certificates" in value}
    if name is None or name not in known:
        names = ", ".join(sorted(known)) or "none yet; fedsim deploy server DIR makes one"
        raise BadInput(f'engine.connection = "{name or ""}": name a connection in {file} (there: {names}).')
    certificate = Path(str(known[name]["root-certificates"])).expanduser()
    secret = certificate.parent / "runs.secret"
    for needed in (certificate, secret):
        if not needed.exists():
            raise BadInput(f'engine.connection = "{name}": {needed} is not there; was it made by fedsim deploy server?')
    return Connection(str(known[name]["address"]), certificate, secret)


class Control:
    """Calls of the Control API that a deployment needs; raises ``FedsimError`` when the SuperLink cannot be reached."""

    def __init__(self, address: str, certificate: Path) -> None:
        from flwr.supercore.control import ControlHttpClient
        from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

        self._address = address
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=certificate.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def register_only(self, keys: dict[str, bytes]) -> tuple[int, int]:
        """Register these keys by name and no others; returns how many were added and removed."""
        from flwr.proto import control_pb2

        nodes = self._call("ListNodes", control_pb2.ListNodesRequest()).nodes_info
        there = {node.public_key: node.node_id for node in nodes if node.status != "unregistered"}
        for key, node in there.items():
            if key not in keys.values():
                self._call("UnregisterNode", control_pb2.UnregisterNodeRequest(node_id=node))
        added = {name: key for name, key in keys.items() if key not in there}
        for name, key in added.items():
            self._call("RegisterNode", control_pb2.RegisterNodeRequest(public_key=key, name=name))
        return len(added), len(there.keys() - keys.values())

    def start_run(self) -> int:
        """Make a run in Flower; returns its number."""
        from flwr.proto import control_pb2, fab_pb2

        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as bundle:
            bundle.writestr(zipfile.ZipInfo("pyproject.toml"), BUNDLE)
        content = packed.getvalue()
        fab = fab_pb2.Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        return int(self._call("StartRun", control_pb2.StartRunRequest(fab=fab)).run_id)

    def stop_run(self, run: int) -> None:
        """End a run in Flower."""
        from flwr.proto import control_pb2

        self._call("StopRun", control_pb2.StopRunRequest(run_id=run))

    def _call(self, method: str, request: Any) -> Any:
        import httpx

        try:
            return getattr(self._client, method)(request)
        except httpx.HTTPStatusError as error:
            reason = f"{error.response.status_code} {error.response.text[:300]}"
            raise FedsimError(f"The SuperLink at {self._address} refused {method}: {reason}") from error
        except httpx.HTTPError as error:
            raise FedsimError(
                f"The SuperLink at {self._address} cannot be reached ({error}); is fedsim deploy server running there?"
            ) from error
