"""Devices that are there by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedsim.devices.availability import Ids, Mask, Moment, Presence
from fedsim.devices.rates import Traits
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Probability:
    """Every client is there with ``probability``, independently of the others and of other rounds."""

    kind: Literal["probability"] = "probability"
    probability: Annotated[float, Field(gt=0, le=1)] = 0.5
    follows_clock: ClassVar[bool] = False

    def presence(self, traits: Traits) -> Presence:
        """Those whose number is below the probability."""

        def there(clients: Ids, moment: Moment) -> Mask:
            return moment.uniforms[clients] < self.probability

        return there
