"""Communication: what clients send, how it is compressed, and what the server makes of it."""

from __future__ import annotations

from fedsim.communication.base import Compression
from fedsim.communication.channel import Channel, Communication, drawn_words
from fedsim.communication.table import COMPRESSIONS

__all__ = ["COMPRESSIONS", "Channel", "Communication", "Compression", "drawn_words"]
