"""Ray itself: started on this machine and stopped again without a trace, or a running cluster that is left running."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fedsim.errors import BadInput
from fedsim.extras import require
from fedsim.scenario import EngineSettings, Resources

CONNECT_SECONDS = 10.0
# Ray's sockets lie in its folder, and their paths may have about a hundred characters.
SHORT_FOLDER = Path("/tmp")


@contextmanager
def connected(engine: EngineSettings) -> Iterator[None]:
    """Ray for as long as the context lasts: the caller's own, the cluster at the address, or one on this machine.

    Raises ``BadInput`` when Ray is not installed or no cluster answers at the address. Only what was started here is
    stopped.
    """
    require('engine.kind = "ray"', ("ray",), "ray")
    with ExitStack() as stack:
        if engine.address is None:
            stack.enter_context(_private())
        import ray

        if not ray.is_initialized():  # else by the program that called us, which also stops it
            handler = signal.getsignal(signal.SIGTERM)
            stack.callback(_restore_sigterm, handler)
            options = _join(engine.address) if engine.address is not None else _start(engine, stack)
            stack.callback(_quietly, ray.shutdown)
            _connect(engine, options)
            if callable(handler):  # whoever asked to be told of SIGTERM still is; else Ray ends what it started
                _restore_sigterm(handler)
        yield


@contextmanager
def _private() -> Iterator[None]:
    """Let a cluster that is started listen on this machine alone, and to nobody who does not know a token.

    By default Ray listens on every network, and runs what anybody sends it.
    """
    values = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if "ray" not in sys.modules or os.environ.get("RAY_AUTH_TOKEN") == _token():  # Ray reads it when it is imported
        values |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _token()}
    before = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    from ray._private import ray_constants, services

    many, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    dashboard, services.start_api_server = services.start_api_server, _no_dashboard
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = many
        services.start_api_server = dashboard
        os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
        os.environ.update({key: value for key, value in before.items() if value is not None})


def _no_dashboard(*_: Any, **__: Any) -> tuple[None, None]:
    """In place of a process that Ray starts even without a dashboard: it looks for a cloud's servers on the network.

    That is for Ray's statistics, also where these are switched off.
    """
    return None, None


@cache
def _token() -> str:
    """One for this process: Ray remembers the first that it sees."""
    return secrets.token_hex(32)


def _start(engine: EngineSettings, stack: ExitStack) -> dict[str, Any]:
    """Options that start a cluster of one machine, with room for the actors that are wanted."""
    folder = tempfile.mkdtemp(prefix="fedsim-ray-", dir=SHORT_FOLDER if SHORT_FOLDER.is_dir() else None)
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpus = engine.workers * engine.actor.cpu if engine.workers else max(cores, engine.actor.cpu)
    gpus = torch.cuda.device_count() if engine.actor.gpu else 0
    return {
        "address": "local",
        "num_cpus": math.ceil(cpus),
        "num_gpus": gpus,
        "include_dashboard": False,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": folder,
    }


def _join(address: str) -> dict[str, Any]:
    """Options that join a running cluster; raises ``BadInput`` where nothing listens, which Ray would try for long."""
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise BadInput(f'engine.address = "{address}": no cluster answers there ({error}).') from error
    return {"address": address}


def _connect(engine: EngineSettings, options: dict[str, Any]) -> None:
    import ray

    try:
        _quietly(ray.init, log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, ray.exceptions.RayError, RuntimeError, ValueError) as error:
        if engine.address is None:
            raise
        reason = str(error).splitlines()[0]
        raise BadInput(f'engine.address = "{engine.address}": the cluster cannot be joined ({reason}).') from error


def _quietly(function: Callable[..., object], **options: Any) -> None:
    """Call Ray, which leaves files open and announces what it will change one day, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function(**options)


def _restore_sigterm(handler: Any) -> None:
    """Ray puts a handler of its own in."""
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(TypeError):  # a handler that was not put in from Python cannot be put back
            signal.signal(signal.SIGTERM, handler)


def room(nodes: list[dict[str, Any]], actor: Resources) -> int:
    """How many actors fit into a cluster, of which ``ray.nodes`` tells the machines."""
    return sum(_room(node["Resources"], actor) for node in nodes if node["Alive"])


def _room(resources: dict[str, float], actor: Resources) -> int:
    fitting = _times(resources.get("CPU", 0.0), actor.cpu)
    if not actor.gpu:
        return fitting
    gpus = int(resources.get("GPU", 0.0))
    # An actor's part of a GPU is of one GPU.
    each = gpus * _times(1.0, actor.gpu) if actor.gpu < 1 else _times(gpus, actor.gpu)
    return min(fitting, each)


def _times(whole: float, part: float) -> int:
    return int(whole / part + 1e-9)
