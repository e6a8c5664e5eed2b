"""Communication: what clients send, how it is compressed, and what the server makes of it."""

from __future__ import annotations

from fedsim.communication.base import Compression
from fedsim.communication.channel import Channel, Communication
from fedsim.communication.table import COMPRESSIONS
from fedsim.communication.transport import carry, drawn_words

__all__ = ["COMPRESSIONS", "Channel", "Communication", "Compression", "carry", "drawn_words"]
