"""``fedsim deploy init``: the folders of a deployment, made whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fedsim.deployment import texts
from fedsim.deployment.keys import SERVER_DAYS, Pair, make_authority, make_server_certificate, make_site_key
from fedsim.errors import BadInput

PORT = 9092
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")
HOST = re.compile(r"^[A-Za-z0-9.:-]{1,253}$")


@dataclass(frozen=True)
class Address:
    """Where sites find the server."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def init(folder: Path, sites: Sequence[str], address: Address) -> list[Path]:
    """Write a deployment into ``folder``, which must not exist; returns the sites' folders. Raises ``BadInput``."""
    _check(folder, sites, address)
    part = folder.with_name(folder.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True, mode=0o700)
        _write_all(part, folder.absolute(), sites, address)
        os.rename(part, folder)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise BadInput(f"The deployment {folder} cannot be written: {error.strerror}.") from error
    return [folder / f"site-{name}" for name in sites]


def renew(folder: Path) -> Path:
    """Make the server a new key and certificate by the same authority; the old pair is kept beside them as ``.old``."""
    server = folder / "server"
    try:
        authority = Pair((folder / "ca" / "ca.key").read_bytes(), (folder / "ca" / "ca.crt").read_bytes())
        host = (server / "address").read_text().strip().rsplit(":", 1)[0].strip("[]")
        pair = make_server_certificate(authority, host)
        for name, content in (("server.key", pair.key), ("server.crt", pair.certificate)):
            (server / name).replace(server / f"{name}.old")
            _write(server / name, content, secret=name.endswith(".key"))
    except (OSError, ValueError) as error:
        raise BadInput(f"The certificate of {server} cannot be renewed: {error}.") from error
    return server / "server.crt"


def _check(folder: Path, sites: Sequence[str], address: Address) -> None:
    if folder.exists():
        raise BadInput(
            f"{folder} exists already; nothing was changed. Name another folder: keys are never overwritten."
        )
    if not sites:
        raise BadInput("--sites: name at least one site, for example --sites berlin,paris.")
    for name in sites:
        if not NAME.match(name):
            raise BadInput(f'--sites: "{name}" is no name for a site; use letters, digits, - and _.')
    if len({name.lower() for name in sites}) < len(sites):
        raise BadInput(f"--sites {','.join(sites)}: every site needs a name of its own.")
    if not HOST.match(address.host):
        raise BadInput(f'--host "{address.host}": give a host name or an address, without a port.')
    if not 1 <= address.port <= 65535:
        raise BadInput(f"--port {address.port}: must be between 1 and 65535.")


def _write_all(part: Path, folder: Path, sites: Sequence[str], address: Address) -> None:
    authority = make_authority()
    (part / "ca").mkdir(mode=0o700)
    _write(part / "ca" / "ca.key", authority.key, secret=True)
    _write(part / "ca" / "ca.crt", authority.certificate)
    _write_server(part / "server", folder, authority, address)
    for name in sites:
        private, public = make_site_key()
        _write(part / "server" / "sites" / f"{name}.pub", public + b"\n")
        _write_site(part / f"site-{name}", folder, name, (private, authority.certificate), address)


def _write_server(server: Path, folder: Path, authority: Pair, address: Address) -> None:
    pair = make_server_certificate(authority, address.host)
    server.mkdir(mode=0o700)
    (server / "sites").mkdir(mode=0o700)
    _write(server / "ca.crt", authority.certificate)
    _write(server / "server.crt", pair.certificate)
    _write(server / "server.key", pair.key, secret=True)
    _write(server / "runs.secret", secrets.token_bytes(32), secret=True)
    _write(server / "address", f"{address}\n")
    connection = connection_name(folder)
    about = {"connection": connection, "port": address.port, "days": SERVER_DAYS}
    _write(server / "README.md", texts.SERVER_README.format(**about))
    _write(server / "start.sh", texts.SERVER_START, mode=0o755)
    unit = texts.UNIT.format(what="server", folder=folder / "server", environment="")
    _write(server / "fedsim-server.service", unit)
    command = 'CMD ["fedsim", "deploy", "server", "/deployment", "--listen", "0.0.0.0"]'
    mounts = f"-v {folder}:/deployment -p {address.port}:{address.port}"
    text = texts.DOCKERFILE.format(folder=folder / "server", what="server", mounts=mounts, command=command)
    _write(server / "Dockerfile", text)


def _write_site(site: Path, folder: Path, name: str, keys: tuple[bytes, bytes], address: Address) -> None:
    private, authority = keys
    final = folder / site.name
    site.mkdir(mode=0o700)
    _write(site / "ca.crt", authority)
    _write(site / "site.key", private, secret=True)
    _write(site / "worker.secret", secrets.token_bytes(32), secret=True)
    text = texts.SITE_TOML.format(name=name, server=address, seed=secrets.randbelow(2**31))
    _write(site / "site.toml", text, mode=0o600)
    version = metadata.version("fedsim")
    _write(site / "README.md", texts.SITE_README.format(name=name, server=address, version=version))
    _write(site / "start.sh", texts.SITE_START, mode=0o755)
    environment = "Environment=DATA=/path/to/this/sites/records.csv\n"
    unit = texts.UNIT.format(what=f"site {name}", folder=final, environment=environment)
    _write(site / f"fedsim-{site.name}.service", unit)
    command = 'CMD ["/site/start.sh"]'
    mounts = f"-v {final}:/site -v FOLDER:/data:ro -e DATA=/data/FILE"
    text = texts.DOCKERFILE.format(folder=final, what=site.name, mounts=mounts, command=command)
    _write(site / "Dockerfile", text)


def connection_name(folder: Path) -> str:
    """What Flower's connection to this deployment is called: the folder's name."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", folder.absolute().name) or "deployment"


def _write(file: Path, content: bytes | str, *, secret: bool = False, mode: int = 0o644) -> None:
    """Write a new file; a secret is never readable by others, not even for a moment."""
    data = content.encode() if isinstance(content, str) else content
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    file.chmod(0o600 if secret else mode)
