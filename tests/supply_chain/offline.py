"""Programs in a network of their own, in which there is nobody else, and what they tried to reach there.

``unshare -n python -m tests.supply_chain.offline COMMAND...`` runs a command in such a network; with ``FEDSIM_SOCKETS``
in the environment, every Python process of it notes in that file whom it calls (``sitecustomize`` in ``noting/``).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def quarantine() -> list[str]:
    """What comes before a command to run it alone with itself; empty where this machine does not allow it."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
        ):
            return [*words, sys.executable, str(Path(__file__).resolve())]
    return []


def noting(file: Path) -> dict[str, str]:
    """The environment in which every Python process notes whom it calls."""
    path = os.pathsep.join(
        [str(HERE / "noting"), str(HERE.parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    )
    return os.environ | {"FEDSIM_SOCKETS": str(file), "PYTHONPATH": path.rstrip(os.pathsep), "OMP_NUM_THREADS": "1"}


def attempts(process: int | str = "self") -> int:
    """How often anybody in the process' network sent something that leads nowhere, by whatever library."""
    net = Path(f"/proc/{process}/net")
    names, values = (line.split() for line in (net / "snmp").read_text().splitlines() if line.startswith("Ip:"))
    six = [line.split() for line in (net / "snmp6").read_text().splitlines() if line.startswith("Ip6OutNoRoutes")]
    return int(dict(zip(names, values, strict=True))["OutNoRoutes"]) + sum(int(value) for _, value in six)


def main(command: list[str]) -> None:
    """Bring the loopback interface up, which is all that there is, and become the command."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP) + bytes(22))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
