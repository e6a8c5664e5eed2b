"""Devices that are there at night, each by its own clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from fedsim.devices.availability import Ids, Mask, Moment, Presence
from fedsim.devices.rates import Traits
from fedsim.settings import Positive, section

Share = Annotated[float, Field(ge=0, le=1)]


@section
@dataclass(frozen=True)
class Diurnal:
    """The probability to be there is a sine over the simulated day: from ``low`` to ``high`` and back in a ``period``.

    Every client has its own phase, drawn from the share ``spread`` of a period: 0 is one time zone, where all are at
    their ``high`` when the run begins, 1 is round the globe. Chances in a round are independent.
    """

    kind: Literal["diurnal"] = "diurnal"
    low: Share = 0.1
    high: Annotated[float, Field(gt=0, le=1)] = 0.9
    period_seconds: Positive = 86400.0
    spread: Share = 1.0
    follows_clock: ClassVar[bool] = True

    def presence(self, traits: Traits) -> Presence:
        """Those whose number is below their probability at the moment."""
        phases = self.spread * traits.uniforms()

        def there(clients: Ids, moment: Moment) -> Mask:
            turn = np.cos(2 * np.pi * (moment.seconds / self.period_seconds - phases[clients]))
            chance = self.low + (self.high - self.low) * (1 + turn) / 2
            return np.asarray(moment.uniforms[clients] < chance)

        return there
