"""The in-process engine: a Flower ``Grid`` of one node that calls the ClientApp directly, without serialisation."""

from __future__ import annotations

import traceback
from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engines.grid import EngineGrid
from fedsim.errors import FedsimError, StorageFailed

NODE = 1
CLIENT_ERROR = 1


class InProcessGrid(EngineGrid):
    """Delivers messages to a ClientApp in this process; an exception in it becomes a Flower error reply."""

    keeps_state = True

    def __init__(self, client_app: ClientApp) -> None:
        self._app = client_app
        self._context = Context(run_id=1, node_id=NODE, node_config={}, state=RecordDict(), run_config={"scenario": ""})
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self) -> Iterable[int]:
        """The one node."""
        return [NODE]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run each message through the ClientApp; the replies wait to be pulled."""
        ids = []
        for message in messages:
            self._sent += 1
            ids.append(str(self._sent))
            self._replies[ids[-1]] = self._deliver(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages, each once."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver messages and yield each reply as soon as it is there."""
        for message in messages:
            yield self._deliver(message)

    def _deliver(self, message: Message) -> Message:
        try:
            return self._app(message, self._context)
        except StorageFailed:  # the run's own disk, as no client could tell it
            raise
        except FedsimError as error:  # its text is for people
            return Message(Error(CLIENT_ERROR, str(error)), reply_to=message)
        except Exception:
            return Message(Error(CLIENT_ERROR, traceback.format_exc()), reply_to=message)
