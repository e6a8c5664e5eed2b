"""The tables of ``[devices]``: speeds, bandwidths and availabilities by name."""

from __future__ import annotations

from fedsim.devices.always import Always
from fedsim.devices.constant import ConstantBandwidth, ConstantSpeed
from fedsim.devices.diurnal import Diurnal
from fedsim.devices.lognormal import LogNormalBandwidth, LogNormalSpeed
from fedsim.devices.presence_trace import PresenceTrace
from fedsim.devices.probability import Probability
from fedsim.devices.rate_trace import RateTrace

SPEEDS = {"constant": ConstantSpeed, "lognormal": LogNormalSpeed, "trace": RateTrace}
BANDWIDTHS = {"constant": ConstantBandwidth, "lognormal": LogNormalBandwidth, "trace": RateTrace}
AVAILABILITIES = {
    "always": Always,
    "probability": Probability,
    "diurnal": Diurnal,
    "trace": PresenceTrace,
}
