"""A run in Flower, held by this process: it is started through the Control API and served through the Runtime API.

``fedsim run`` is the run's server itself, so its progress, its files and its exit code are those of any other run. The
SuperLink may die and come back meanwhile; a run that Flower gave up is replaced by another, and what was asked is asked
again, which costs nothing: sites send the same answers.
"""

from __future__ import annotations

import fcntl
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fedsim.deployment.control import Connection, Control
from fedsim.deployment.runtime import runtime_client
from fedsim.errors import FedsimError

T = TypeVar("T")

ACQUIRE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
PATIENCE_SECONDS = 300.0
RETRY_SECONDS = 1.0
POLL_SECONDS = 0.2


class RunGone(Exception):
    """Flower has given the run up, because its server was not heard of for too long."""


class Link:
    """One Flower run whose server is this process; ``call`` retries while the SuperLink is away."""

    def __init__(self, connection: Connection, say: Callable[[str], None]) -> None:
        self._connection, self._say = connection, say
        self._stop = threading.Event()
        self.grid: Any = None
        self.run = 0
        self.open()
        threading.Thread(target=self._beat, daemon=True).start()

    def open(self) -> None:
        """Start a run in Flower and become its server; raises ``FedsimError`` if the SuperLink does not let us."""
        logging.getLogger("flwr").setLevel(logging.ERROR)
        with self._alone():
            control = Control(self._connection.address, self._connection.certificate)
            try:
                self.run = control.start_run()
                token = self._acquire(self.run)
            finally:
                control.close()
        self.grid = self._grid(token)

    def close(self) -> None:
        """Tell Flower that the run is over; never raises."""
        self._stop.set()
        try:
            control = Control(self._connection.address, self._connection.certificate)
            control.stop_run(self.run)
            control.close()
        except FedsimError:
            self._say("Flower was not told that the run is over; it will find out by itself.")
        self.grid.close()

    def call(self, ask: Callable[[Any], T]) -> T:
        """``ask(grid)``, tried again while the SuperLink cannot be reached; raises ``RunGone`` or ``FedsimError``."""
        import httpx

        until = time.monotonic() + PATIENCE_SECONDS
        waiting = False
        while True:
            try:
                return ask(self.grid)
            except httpx.HTTPStatusError as error:
                if error.response.status_code < 500:
                    raise RunGone(f"{error.response.status_code} {error.response.text[:200]}") from error
                problem: Exception = error
            except httpx.TransportError as error:
                problem = error
            if time.monotonic() > until:
                raise FedsimError(
                    f"The SuperLink could not be reached for {PATIENCE_SECONDS:g} s ({problem}). "
                    "Every finished round is kept; start it again and resume."
                ) from problem
            if not waiting:
                self._say("The SuperLink cannot be reached; waiting for it.")
                waiting = True
            time.sleep(RETRY_SECONDS)

    def _acquire(self, run: int) -> str:
        """The token of the run's server task; tasks of runs that died before are cleared away."""
        from flwr.proto.runtime_pb2 import AcquireTaskRequest
        from flwr.supercore.constant import TaskType

        client = self._client(None)
        until = time.monotonic() + ACQUIRE_SECONDS
        try:
            while time.monotonic() < until:
                found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
                if found.token and found.task.run_id == run:
                    return str(found.token)
                if not found.token:
                    time.sleep(POLL_SECONDS)
        finally:
            client.close()
        raise FedsimError("The SuperLink did not hand over its run; is another program serving its runs?")

    def _client(self, token: str | None) -> Any:
        certificate = self._connection.certificate.read_bytes()
        return runtime_client(self._connection.address, certificate, self._connection.secret.read_bytes(), token)

    def _grid(self, token: str) -> Any:
        """Flower's grid for the run, and this process's name in Flower."""
        from flwr.common.serde import run_from_proto
        from flwr.proto.runtime_pb2 import PullTaskInputRequest
        from flwr.supercore.task_identity import TaskIdentity
        from flwr.superlink.grid import HttpGrid

        from fedsim.deployment.inflating import read_safely

        read_safely()
        grid = HttpGrid(self._connection.address, False, self._connection.certificate.read_bytes(), token=token)
        grid._retry_invoker.max_tries = 1  # ``call`` retries, and knows when to stop
        found = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = found.task_id, found.run.run_id
        TaskIdentity.node_id = found.context.node_id
        grid.set_run(run_from_proto(found.run))
        return grid

    def _beat(self) -> None:
        """Tell Flower every few seconds that the run's server is alive."""
        import httpx
        from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.grid._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except (httpx.HTTPError, RuntimeError):
                continue  # the next call finds out what it means

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Of two runs that start at once, one waits: the SuperLink hands its tasks to whoever asks."""
        with open(self._connection.secret.with_name(".starting"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
