"""``fedsim deploy site``: a SuperNode, and beside it the process that answers its messages with this fedsim's own code.

Flower's own client process would run the app that came with the run: whoever controls the server could run anything
at the site. Here the app's bundle is never run. Messages are fetched by Flower's Runtime API, guarded by a secret of
the site's, and each is answered in a fork of a process that has imported everything, so that starting costs little.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedsim.deployment.processes import end, environment, free_port, only_one, start, stop_on_signals, wait_for_port
from fedsim.deployment.runtime import runtime_client
from fedsim.deployment.site_settings import SiteSettings, load_site
from fedsim.errors import BadInput
from fedsim.schema import adapter

POLL_SECONDS = 0.2
START_SECONDS = 60.0
RETRY_SECONDS = 3.0
FAILED = 701  # the error's code where a message could not be answered at all
# What an answer would import by itself, most of it second-hand: optimizers import torch._dynamo when one is made.
IMPORTED = (
    "fedsim.deployment.site",
    "flwr.supernode.runtime.run_clientapp",
    "torch._dynamo",
    "sklearn.model_selection",
    "scipy.stats",
    "dp_accounting.pld.privacy_loss_distribution",
    "dp_accounting.rdp",
)
BUNDLE_FILES = ("ca.crt", "site.key", "worker.secret")


@dataclass(frozen=True)
class Runtime:
    """The SuperNode's Runtime API on this machine, and the secret that lets a worker in."""

    address: str
    secret: bytes

    def client(self, token: str | None = None) -> Any:
        """A client for asking for work, or with a ``token`` for doing it."""
        return runtime_client(self.address, None, self.secret, token)


def work(folder: Path, data: str, say: Callable[[str], None]) -> None:
    """Connect a site and answer its messages until it is stopped; raises ``BadInput`` for a folder that is none."""
    settings = load_site(folder)
    for name in BUNDLE_FILES:
        if not (folder / name).exists():
            raise BadInput(f"{folder} is not a whole site's folder: {name} is missing.")
    if (folder / "site.key").stat().st_mode & 0o077 or (folder / "worker.secret").stat().st_mode & 0o077:
        raise BadInput(f"{folder}: site.key and worker.secret can be read by others; chmod 600 them.")
    os.environ.update(environment())
    stop_on_signals()
    _import_all()
    say(f"Site {settings.name}: connecting to {settings.server}.")
    with only_one(folder), suppress(KeyboardInterrupt):
        while True:
            _serve_once(folder.absolute(), data, settings)
            say(f"The SuperNode ended; connecting again in {RETRY_SECONDS:g} s.")
            time.sleep(RETRY_SECONDS)
    say("Stopped.")


def _import_all() -> None:
    """Import now what every answer needs: a fork has it already."""
    import importlib

    for module in IMPORTED:
        importlib.import_module(module)
    adapter()


def _serve_once(folder: Path, data: str, settings: SiteSettings) -> None:
    """Run a SuperNode and answer its messages until it ends."""
    port = free_port()
    options = [
        *("--root-certificates", str(folder / "ca.crt"), "--superlink", settings.server),
        *("--auth-supernode-private-key", str(folder / "site.key")),
        *("--isolation", "process", "--superexec-auth-secret-file", str(folder / "worker.secret")),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--node-config", f"folder={_quoted(str(folder))} data={_quoted(data)}"),
    ]
    process = start("supernode", options, folder / "flower", None)
    try:
        if wait_for_port(process, port, START_SECONDS):
            _answer_all(process, Runtime(f"127.0.0.1:{port}", (folder / "worker.secret").read_bytes()))
    finally:
        end(process)


def _quoted(text: str) -> str:
    if '"' in text or "\\" in text or "\n" in text:
        raise BadInput(f"{text!r}: a path with quotes or backslashes cannot be handed to Flower; use another.")
    return f'"{text}"'


def _answer_all(process: Any, runtime: Runtime) -> None:
    """Ask for work, and answer each message in a fork, one at a time."""
    import httpx
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType

    client, request = runtime.client(), AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    while process.poll() is None:
        try:
            found = client.AcquireTask(request)
        except httpx.HTTPError:
            found = None  # it is about to end, or busy
        if found is not None and found.token:
            if not _forked(partial(answer, runtime, found.token)):
                break  # the SuperNode would wait for the answer; a new one does not
        else:
            time.sleep(POLL_SECONDS)
    client.close()


def _forked(task: Callable[[], None]) -> bool:
    """Do it in a process of its own and wait for that; whether it went well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            task()
            code = 0
        except Exception as error:
            print(f"fedsim: the message could not be answered: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def answer(runtime: Runtime, token: str) -> None:
    """Fetch one message, answer it, and send the answer to the SuperNode."""
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
    from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

    client = runtime.client(token)
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    try:
        began = time.perf_counter(), time.process_time()
        message, context, _, _ = pull_task_input(client)
        reply = reply_to(message, context)
        push_message(client, reply, context)
        push_task_output(client, context, "completed", "")
        took, used = time.perf_counter() - began[0], time.process_time() - began[1]
        kind = message.metadata.message_type
        print(f"fedsim: {kind} message answered in {took:.2f} s, {used:.2f} s of them computing", flush=True)
    finally:
        heartbeat.stop()
        client.close()


def reply_to(message: Any, context: Any) -> Any:
    """The site's reply; of an unexpected error the server learns nothing but that there was one."""
    from flwr.app import Error, Message

    from fedsim.deployment.site import app

    try:
        return app(message, context)
    except Exception as error:
        print(f"fedsim: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return Message(Error(FAILED, "the site met an unexpected error; its own log says which"), reply_to=message)
