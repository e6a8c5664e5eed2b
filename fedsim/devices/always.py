"""Devices that are always there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from fedsim.devices.availability import Ids, Mask, Moment, Presence
from fedsim.devices.rates import Traits
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Always:
    """Every client is there whenever it is asked."""

    kind: Literal["always"] = "always"
    follows_clock: ClassVar[bool] = False

    def presence(self, traits: Traits) -> Presence:
        """True for each client."""

        def there(clients: Ids, moment: Moment) -> Mask:
            return np.ones(len(clients), bool)

        return there
