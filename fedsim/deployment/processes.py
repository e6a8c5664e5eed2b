"""Flower's programs as child processes: how they are started, watched and ended."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedsim.errors import BadInput, FedsimError

QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "FLWR_LOG_LEVEL": "INFO"}
GRACE_SECONDS = 10.0
PARENT = "FEDSIM_PARENT_PID"


def environment(home: Path | None = None) -> dict[str, str]:
    """The environment of Flower's programs: they phone nobody; ``home`` holds what they keep."""
    found = {**os.environ, **QUIET, "PYTHONUNBUFFERED": "1"}
    return found if home is None else {**found, "FLWR_HOME": str(home)}


def start(module: str, options: list[str], home: Path, log: IO[bytes] | None) -> subprocess.Popen[bytes]:
    """Start one of this folder's programs in a session of its own, so that Ctrl-C reaches only us."""
    command = [sys.executable, "-m", f"fedsim.deployment.{module}", *options]
    # The child ends with us. It is told who we are: if we die before it looks, its parent is somebody else.
    known = environment(home) | {PARENT: str(os.getpid())}
    return subprocess.Popen(command, env=known, stdout=log, stderr=log, start_new_session=True)


def end_with_parent() -> None:
    """Let this program end when the one that started it is gone, however that ended."""
    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)  # it had its time

    threading.Thread(target=watch, daemon=True).start()


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a child to stop; kill it if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def only_one(folder: Path, patience: float = 30.0) -> Iterator[None]:
    """Hold the folder while this process runs it; raises ``BadInput`` if another does.

    An answer that a killed process was working on holds it too, for ``patience`` seconds at most.
    """
    until = time.monotonic() + patience
    with open(folder / ".running", "w") as file:
        while not _held(file):
            if time.monotonic() > until:
                raise BadInput(f"{folder} is being run by another process already.")
            time.sleep(0.2)
        yield


def _held(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def running(folder: Path) -> bool:
    """Whether some process runs the folder."""
    try:
        with only_one(folder, patience=0.0):
            return False
    except BadInput:
        return True


def free_port() -> int:
    """A port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_free(host: str, port: int) -> None:
    """Raise ``FedsimError`` where this machine cannot listen on a port; whoever listens there would be taken for us."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what an ended server leaves behind is no one
            probe.bind(address)
    except OSError as error:
        why = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror
        raise FedsimError(f"Port {port} on {host} cannot be used: {why}. Stop that program, or use another.") from error


def wait_for_port(process: subprocess.Popen[bytes], port: int, seconds: float) -> bool:
    """Whether the child listens on the port before it ends or the time is up."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False


def stop_on_signals() -> None:
    """Let SIGTERM (systemd's way) end this process as Ctrl-C does."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
