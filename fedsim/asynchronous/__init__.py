"""Asynchronous runs: the server steps whenever enough updates have arrived, and waits for nobody."""

from __future__ import annotations

from fedsim.asynchronous.methods import Asynchronous
from fedsim.asynchronous.staleness import STALENESS
from fedsim.asynchronous.table import ASYNCHRONOUS

__all__ = ["ASYNCHRONOUS", "STALENESS", "Asynchronous"]
