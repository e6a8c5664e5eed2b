"""The section ``[devices]`` of a scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedsim.devices.always import Always
from fedsim.devices.availability import Availability
from fedsim.devices.constant import ConstantBandwidth, ConstantSpeed
from fedsim.devices.rates import Rates
from fedsim.devices.tables import AVAILABILITIES, BANDWIDTHS, SPEEDS
from fedsim.settings import NonNegative, Positive, choice, section

if TYPE_CHECKING:
    SpeedChoice = Rates
    BandwidthChoice = Rates
    AvailabilityChoice = Availability
else:
    SpeedChoice = choice("kind", SPEEDS)
    BandwidthChoice = choice("kind", BANDWIDTHS)
    AvailabilityChoice = choice("kind", AVAILABILITIES)

# With a chance of 1 nothing would ever arrive.
Chance = Annotated[float, Field(ge=0, lt=1)]


@section
@dataclass(frozen=True, kw_only=True)
class Dropout:
    """A client that has trained fails with these chances.

    ``before_upload``: at some moment of its upload, so that its update does not arrive. ``after_upload``: its update
    arrives, but what the client would keep for itself is as it was before the round.
    """

    before_upload: Chance = 0.0
    after_upload: Chance = 0.0


@section
@dataclass(frozen=True, kw_only=True)
class Devices:
    """What clients run on, and the simulated clock that follows from it.

    A client needs latency, download, training and upload, one after the other. What is not back after
    ``deadline_seconds`` does not count. ``over_selection`` is the share of clients that a cohort of fixed size asks in
    excess; the first to finish count. Where nobody is there, the server asks again after ``retry_seconds``.
    """

    compute: SpeedChoice = ConstantSpeed()
    upload: BandwidthChoice = ConstantBandwidth()
    download: BandwidthChoice = ConstantBandwidth()
    latency_seconds: NonNegative = 0.0
    availability: AvailabilityChoice = Always()
    dropout: Dropout = Dropout()
    deadline_seconds: Positive | None = None
    over_selection: Annotated[float, Field(ge=0, le=10)] = 0.0
    retry_seconds: Positive = 60.0
