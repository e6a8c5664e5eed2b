"""Devices on a simulated clock: how fast each client computes and sends, when it is there, and when it fails."""

from __future__ import annotations

from fedsim.devices.fleet import Fleet, Load
from fedsim.devices.round_times import Asked, Fate, RoundTimes, round_times
from fedsim.devices.settings import Devices, Dropout
from fedsim.devices.tables import AVAILABILITIES, BANDWIDTHS, SPEEDS

__all__ = [
    "AVAILABILITIES",
    "BANDWIDTHS",
    "SPEEDS",
    "Asked",
    "Devices",
    "Dropout",
    "Fate",
    "Fleet",
    "Load",
    "RoundTimes",
    "round_times",
]
