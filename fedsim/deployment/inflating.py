"""Flower's grid reads what sites upload with a reader that raises: one site's bytes would end the run for all."""

from __future__ import annotations

import logging
import time
from typing import Any

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.superlink.grid import http_grid

from fedsim.decoding import printable
from fedsim.messages import REJECTED


def read_safely() -> None:
    """Let Flower's grid read with ``inflated``; Flower has no other way in."""
    http_grid.inflate_object_from_contents = inflated


def inflated(number: str, contents: dict[str, bytes]) -> Message:
    """The message in uploaded objects, or one that answers nothing: its site is waited for as if it were silent."""
    try:
        found = inflate_object_from_contents(number, contents)
        if not isinstance(found, Message):
            raise TypeError(f"a {type(found).__name__} in the place of a message")
        found.has_error()  # and of its metadata what is looked at next
        return found if isinstance(found.metadata.reply_to_message_id, str) else _nothing("no answer to a message")
    except Exception as error:  # whatever bytes made to be read wrongly lead the reader to
        return _nothing(str(error) or type(error).__name__)


def _nothing(reason: str) -> Any:
    logging.getLogger("fedsim").warning("What a site uploaded cannot be read: %s", printable(reason))
    nobody = {"src_node_id": 0, "dst_node_id": 0, "message_id": "", "reply_to_message_id": "", "group_id": ""}
    about = Metadata(run_id=0, message_type="train", created_at=time.time(), ttl=1.0, **nobody)
    return make_message(metadata=about, error=Error(REJECTED, "it cannot be read"))
