"""``fedsim deploy init``: keys that work, secrets that stay secret, nothing overwritten; the gate; ``site.toml``."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from fedsim.cli import app
from fedsim.deployment.checking import check_site
from fedsim.deployment.folders import Address, init, renew
from fedsim.deployment.keys import Pair, make_authority, make_server_certificate, public_key_of, registered_key
from fedsim.deployment.processes import check_free, free_port, only_one, running
from fedsim.deployment.serving import serve, server_port, site_keys
from fedsim.deployment.site_settings import load_site
from fedsim.deployment.superlink import Gate, allowed
from fedsim.deployment.supernode import _Clock
from fedsim.errors import BadInput, FedsimError


@pytest.fixture
def deployment(tmp_path: Path) -> Path:
    init(tmp_path / "d", ["a", "b"], Address("localhost", free_port()))
    return tmp_path / "d"


def test_every_secret_can_be_read_by_its_owner_alone(deployment: Path):
    secrets = ["ca/ca.key", "server/server.key", "server/runs.secret"]
    secrets += [f"site-{name}/{file}" for name in "ab" for file in ("site.key", "worker.secret", "site.toml")]
    for name in secrets:
        assert stat.S_IMODE((deployment / name).stat().st_mode) == 0o600, name
    private = re.compile(rb"PRIVATE KEY")
    files = [file for file in deployment.rglob("*") if file.is_file()]
    holding = {str(file.relative_to(deployment)) for file in files if private.search(file.read_bytes())}
    assert holding == {"ca/ca.key", "server/server.key", "site-a/site.key", "site-b/site.key"}


def test_the_server_knows_each_sites_public_key(deployment: Path):
    keys = site_keys(deployment / "server")
    assert sorted(keys) == ["a", "b"]
    for name, key in keys.items():
        assert public_key_of((deployment / f"site-{name}" / "site.key").read_bytes()) == key
    assert keys["a"] != keys["b"]


def test_a_second_call_overwrites_nothing(deployment: Path):
    before = {file: file.read_bytes() for file in deployment.rglob("*") if file.is_file()}
    with pytest.raises(BadInput, match="nothing was changed"):
        init(deployment, ["c"], Address("localhost"))
    assert before == {file: file.read_bytes() for file in deployment.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("sites", "host", "port"),
    [([], "h", 1), (["a", "A"], "h", 1), (["../x"], "h", 1), (["a"], "h:1", 0), (["a"], "no host", 1), (["a"], "h", 0)],
)
def test_impossible_deployments_are_refused_with_nothing_written(
    tmp_path: Path, sites: list[str], host: str, port: int
):
    with pytest.raises(BadInput):
        init(tmp_path / "d", sites, Address(host, port))
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_a_deployment_once(tmp_path: Path):
    words = ["deploy", "init", str(tmp_path / "d"), "--sites", "north,south", "--host", "fl.example.org"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    assert load_site(tmp_path / "d" / "site-north").server == "fl.example.org:9092"
    assert isinstance(CliRunner().invoke(app, words).exception, BadInput)


def handshake(server: Path, authority: Path, name: str) -> str:
    """What a client that trusts ``authority`` makes of the server's certificate: "" if it is good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / "server.crt", server / "server.key")
    trusting = ssl.create_default_context(cafile=str(authority))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
    there = context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(10):
        for side in (client, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return str(error)
    return ""


def test_the_servers_certificate_is_good_for_its_names_and_its_own_authority_alone(tmp_path: Path):
    init(tmp_path / "d", ["a"], Address("fl.example.org"))
    init(tmp_path / "other", ["a"], Address("fl.example.org"))
    server = tmp_path / "d" / "server"
    for name in ("fl.example.org", "localhost", "127.0.0.1"):
        assert handshake(server, tmp_path / "d" / "site-a" / "ca.crt", name) == ""
    assert "certificate verify failed" in handshake(server, server / "ca.crt", "evil.example.org")
    assert "certificate verify failed" in handshake(server, tmp_path / "other" / "ca" / "ca.crt", "localhost")


def test_a_renewed_certificate_is_by_the_same_authority(deployment: Path):
    old = (deployment / "server" / "server.crt").read_bytes()
    renew(deployment)
    assert (deployment / "server" / "server.crt").read_bytes() != old
    assert stat.S_IMODE((deployment / "server" / "server.key").stat().st_mode) == 0o600
    assert handshake(deployment / "server", deployment / "site-b" / "ca.crt", "localhost") == ""


def test_an_expired_certificate_is_not_good(deployment: Path):
    authority = make_authority(datetime.now(UTC) - timedelta(days=800))
    pair = make_server_certificate(authority, "localhost", datetime.now(UTC) - timedelta(days=700))
    (deployment / "server" / "server.crt").write_bytes(pair.certificate)
    (deployment / "server" / "server.key").write_bytes(pair.key)
    (deployment / "ca.crt").write_bytes(authority.certificate)
    assert "expired" in handshake(deployment / "server", deployment / "ca.crt", "localhost")


def test_the_authority_may_sign_no_other_authority():
    found = x509.load_pem_x509_certificate(make_authority().certificate)
    constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_a_key_of_another_kind_is_no_sites_key(deployment: Path):
    (deployment / "server" / "sites" / "x.pub").write_text("ssh-rsa nonsense\n")
    with pytest.raises(BadInput, match=r"x\.pub is no public key"):
        site_keys(deployment / "server")
    with pytest.raises(ValueError, match="Invalid line format"):
        registered_key(b"nonsense")


@pytest.mark.parametrize(
    ("path", "client", "passes"),
    [
        ("/v1/fleet/pull-messages", ("10.0.0.9", 1), True),
        ("/v1/control/start-run", ("10.0.0.9", 1), False),
        ("/v1/runtime/acquire-task", ("10.0.0.9", 1), False),
        ("/v1/fleet", ("10.0.0.9", 1), False),
        ("/docs", ("10.0.0.9", 1), False),
        ("/v1/control/start-run", ("127.0.0.1", 1), True),
        ("/v1/control/start-run", ("::1", 1), True),
        ("/v1/control/start-run", ("::ffff:127.0.0.1", 1), True),
        ("/v1/control/start-run", ("::ffff:10.0.0.9", 1), False),
        ("/v1/control/start-run", ("testclient", 1), False),
        ("/v1/control/start-run", None, False),
    ],
)
def test_from_elsewhere_only_the_fleet_api_exists(path: str, client: tuple[str, int] | None, passes: bool):
    assert allowed(path, client) is passes
    seen, sent = [], []

    async def inner(scope: object, receive: object, send: object) -> None:
        seen.append(scope)

    async def send(event: dict[str, object]) -> None:
        sent.append(event.get("status"))

    asyncio.run(Gate(inner)({"type": "http", "path": path, "client": client}, None, send))
    assert (len(seen), sent) == ((1, []) if passes else (0, [403, None]))


def test_flower_still_has_what_its_launchers_change():
    """Flower is pinned; if it moves what the launchers replace, they must say so and not do nothing."""
    from flwr.supercore import heartbeat
    from flwr.superlink import extensions
    from flwr.supernode import fleet_http_connection, start_client_internal

    assert callable(extensions.get_middleware)
    assert start_client_internal.time is __import__("time")
    assert fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL == heartbeat.HEARTBEAT_DEFAULT_INTERVAL == 30
    assert _Clock().monotonic() > 0


BAD_SETTINGS = [
    ('send_metrics = "yes"', "policy.send_metrics"),
    ("max_epsilon_example = 0.0", "policy.max_epsilon_example"),
    ("max_epsilon_exmaple = 1.0", "policy.max_epsilon_exmaple"),
    ('scenarios = ["not a digest"]', "policy.scenarios"),
    ("delta = 1.5", "policy.delta"),
]


@pytest.mark.parametrize(("line", "names"), BAD_SETTINGS)
def test_a_mistake_in_site_toml_is_named(deployment: Path, line: str, names: str):
    file = deployment / "site-a" / "site.toml"
    key = line.split(" =", maxsplit=1)[0]
    kept = [text for text in file.read_text().splitlines() if not text.startswith(f"{key} =")]
    file.write_text("\n".join([*kept, line]) + "\n")
    with pytest.raises(BadInput, match=re.escape(names)):
        load_site(deployment / "site-a")


def test_one_process_runs_a_folder(tmp_path: Path):
    assert not running(tmp_path)
    with only_one(tmp_path):
        lines = ["from pathlib import Path", "from fedsim.deployment.processes import running"]
        code = "; ".join([*lines, f"print(running(Path({str(tmp_path)!r})))"])
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "True"
    assert not running(tmp_path)


def test_check_says_what_is_wrong_one_line_each(deployment: Path):
    site = deployment / "site-a"
    (site / "site.key").chmod(0o644)
    lines = {finding.what: (finding.good, finding.seen) for finding in check_site(site, None, None)}
    assert lines["settings"][0]
    assert lines["site.key"] == (False, f"{site / 'site.key'} can be read by others; chmod 600 {site / 'site.key'}")
    assert lines["worker.secret"][0]
    assert not lines["port"][0]
    assert "certificate" not in lines


def test_check_tells_a_wrong_certificate_and_a_plaintext_server(deployment: Path, tmp_path: Path):
    init(tmp_path / "other", ["a"], Address("localhost"))
    for kind, expected in (("tls", "self-signed|unable to get|verify failed"), ("plain", "not this deployment's")):
        port = int(load_site(deployment / "site-a").server.rsplit(":", 1)[1])
        with _served(tmp_path / "other" / "server" if kind == "tls" else None, port):
            lines = {finding.what: finding for finding in check_site(deployment / "site-a", None, None)}
        assert lines["port"].good
        assert not lines["certificate"].good
        assert re.search(expected, lines["certificate"].seen)


def test_check_tells_a_certificate_of_tomorrow_from_another_deployments(deployment: Path):
    """The site's clock is behind, or the server's was ahead when the certificate was made."""
    server, tomorrow = deployment / "server", datetime.now(UTC) + timedelta(days=2)
    authority = Pair((deployment / "ca" / "ca.key").read_bytes(), (server / "ca.crt").read_bytes())
    pair = make_server_certificate(authority, "localhost", tomorrow)
    (server / "server.crt").write_bytes(pair.certificate)
    (server / "server.key").write_bytes(pair.key)
    with _served(server, int(load_site(deployment / "site-a").server.rsplit(":", 1)[1])):
        lines = {finding.what: finding for finding in check_site(deployment / "site-a", None, None)}
    assert not lines["certificate"].good
    assert re.match(
        r"certificate is not yet valid, by this machine's clock, on which it is 20", lines["certificate"].seen
    )


def test_a_port_that_another_program_has_is_one_clear_error(deployment: Path):
    """Whoever listens there would be taken for the SuperLink that could not start."""
    port = server_port(deployment)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(FedsimError) as caught:
        serve(deployment, "127.0.0.1", lambda text: None)
    assert str(caught.value) == (
        f"Port {port} on 127.0.0.1 cannot be used: another program listens there. Stop that program, or use another."
    )
    assert caught.value.exit_code == 1
    check_free("127.0.0.1", port)
    with pytest.raises(FedsimError, match=f"Port {port} on 192.0.2.1 cannot be used: Cannot assign"):
        check_free("192.0.2.1", port)


class _served:
    """A server of one connection, by TLS with these keys or in plain text."""

    def __init__(self, keys: Path | None, port: int) -> None:
        import socket

        self._socket = socket.create_server(("127.0.0.1", port))
        self._keys = keys
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()

    def _answer(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            if self._keys is None:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._keys / "server.crt", self._keys / "server.key")
            try:
                context.wrap_socket(connection, server_side=True)
            except OSError:
                return


def test_the_start_scripts_are_shell(deployment: Path):
    shell = shutil.which("sh")
    assert shell is not None
    for script in (deployment / "server" / "start.sh", deployment / "site-a" / "start.sh"):
        assert script.stat().st_mode & 0o100
        subprocess.run([shell, "-n", str(script)], check=True)
