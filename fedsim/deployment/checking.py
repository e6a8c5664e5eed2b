"""``fedsim deploy check``: what would keep a site from taking part, one line each."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from fedsim.deployment.keys import public_key_of
from fedsim.deployment.processes import running
from fedsim.deployment.site_settings import SiteSettings, load_site
from fedsim.errors import FedsimError

SECONDS = 10.0
NOT_YET_VALID, EXPIRED = 9, 10  # OpenSSL's codes
# Flower takes what a SuperNode signed up to 5 minutes ago, by a clock that may be 5 seconds ahead.
BEHIND_SECONDS, AHEAD_SECONDS = 300.0, 5.0


@dataclass(frozen=True)
class Finding:
    """What was looked at, whether it is good, and what was seen."""

    what: str
    good: bool
    seen: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.good else 'FAIL'} {self.what}: {self.seen}"


def check_site(folder: Path, data: str | None, scenario: Path | None) -> Iterator[Finding]:
    """Settings, secrets, certificate, clock, port, key, data and policy, as far as they can be looked at."""
    settings = load_site(folder)
    yield Finding("settings", True, f"site {settings.name}, server {settings.server}, policy {settings.policy}")
    yield from _secrets(folder)
    reached = [*_connection(folder, settings)]
    yield from reached
    if all(finding.good for finding in reached):
        yield _judged("key", lambda: _key(folder, settings))
    if scenario is None:
        yield Finding("data", True, "not looked at: give --data FILE and --scenario SCENARIO")
    else:
        yield _judged("scenario and policy", lambda: _agreement(settings, scenario))
        if data is not None:
            yield _judged("data", lambda: _data(settings, data, scenario))


def _judged(what: str, look: Callable[[], tuple[bool, str]]) -> Finding:
    try:
        return Finding(what, *look())
    except (FedsimError, OSError, ValueError) as error:
        return Finding(what, False, str(error))


def _secrets(folder: Path) -> Iterator[Finding]:
    for name in ("site.key", "worker.secret"):
        file = folder / name
        if not file.exists():
            yield Finding(name, False, f"{file} is missing")
        elif file.stat().st_mode & 0o077:
            yield Finding(name, False, f"{file} can be read by others; chmod 600 {file}")
        else:
            yield Finding(name, True, "only its owner can read it")


def _connection(folder: Path, settings: SiteSettings) -> Iterator[Finding]:
    """The port, the server's certificate, and how far the clocks are apart."""
    host, port = settings.server.rsplit(":", 1)
    host = host.strip("[]")
    try:
        plain = socket.create_connection((host, int(port)), SECONDS)
    except OSError as error:
        yield Finding("port", False, f"{settings.server} cannot be reached: {error}")
        return
    yield Finding("port", True, f"{settings.server} answers")
    with plain:
        try:
            context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
            with context.wrap_socket(plain, server_hostname=host) as secured:
                yield Finding("certificate", True, _validity(secured.getpeercert() or {}))
                yield _clock(secured, host)
        except ssl.SSLCertVerificationError as error:
            yield Finding("certificate", False, _unverified(error))
        except (OSError, ValueError) as error:
            reason = getattr(error, "verify_message", None) or str(error)
            yield Finding("certificate", False, f"the server's certificate is not this deployment's: {reason}")


def _unverified(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code not in (NOT_YET_VALID, EXPIRED):
        return f"the server's certificate is not this deployment's: {error.verify_message}"
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return f"{error.verify_message}, by this machine's clock, on which it is {now}; set the clock, or renew it there"


def _validity(certificate: Mapping[str, object]) -> str:
    ends = str(certificate.get("notAfter"))
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    return f"signed by this deployment's authority, valid for {days:.0f} more days"


def _clock(secured: ssl.SSLSocket, host: str) -> Finding:
    secured.sendall(f"HEAD /v1/fleet/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head = secured.recv(4096).decode("latin-1")
    dates = [line[5:].strip() for line in head.splitlines() if line.lower().startswith("date:")]
    if not dates:
        return Finding("clock", False, "the server did not say what time it is; is it a fedsim server?")
    apart = time.time() - parsedate_to_datetime(dates[0]).timestamp()
    good = -BEHIND_SECONDS < apart < AHEAD_SECONDS
    allowed = f"{-BEHIND_SECONDS:g} to {AHEAD_SECONDS:g} is good"
    return Finding("clock", good, f"{apart:+.0f} s from the server's ({allowed})")


def _key(folder: Path, settings: SiteSettings) -> tuple[bool, str]:
    """Whether the server knows the site's key: sign in as its SuperNode would, and out again at once."""
    import httpx
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    if running(folder):
        return True, "the site is running at the moment; stop it to have its key checked"
    secret = (folder / "site.key").read_bytes()
    private = load_ssh_private_key(secret, None)
    checks = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(private, private.public_key()),
    ]
    request = ActivateNodeRequest(public_key=public_key_of(secret), heartbeat_interval=SECONDS)
    with FleetHttpClient.from_server_address(settings.server, False, str(folder / "ca.crt"), checks) as client:
        try:
            node = client.ActivateNode(request).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except httpx.HTTPStatusError as error:
            return False, f"the server does not know it, or it is in use elsewhere ({error.response.text[:200]})"
    return True, "the server knows it"


def _agreement(settings: SiteSettings, scenario: Path) -> tuple[bool, str]:
    from fedsim.deployment.agreement import agreed
    from fedsim.deployment.policy import scenario_refusals
    from fedsim.loading import load_scenario

    found = agreed(load_scenario(scenario))
    reasons = list(scenario_refusals(settings.policy, found))
    digest = f'its digest for policy.scenarios is "{found.digest}"'
    return not reasons, "; ".join([f"refused: {', '.join(reasons)}" if reasons else "accepted", digest])


def _data(settings: SiteSettings, data: str, scenario: Path) -> tuple[bool, str]:
    from fedsim.deployment.agreement import agreed
    from fedsim.deployment.policy import plan_refusals
    from fedsim.deployment.site_federation import site_federation
    from fedsim.loading import load_scenario

    federation = site_federation(agreed(load_scenario(scenario)), settings, data, 0, 1)
    loaded = federation.task.data
    reasons = list(plan_refusals(settings.policy, federation.plan, 0))
    seen = f"{len(loaded.train)} records train, {len(loaded.test)} are held back, {len(loaded.names)} {loaded.kind}"
    return not reasons, "; ".join([seen, *loaded.notes, *reasons])
