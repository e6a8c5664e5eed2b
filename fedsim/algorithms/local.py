"""No federation: every client trains a model of its own on its own records, the baseline of personalisation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedsim.algorithms.personal import PrivateParameters
from fedsim.params import Layout
from fedsim.settings import section

NOTHING_LEAVES = "nothing leaves a client, so there is nothing to add noise to and no epsilon to report"


@section
@dataclass(frozen=True, kw_only=True)
class Local(PrivateParameters):
    """Every client trains alone, from the run's initial model; nothing is sent, and the global model never changes."""

    name: Literal["local"] = "local"

    sends_model: ClassVar[bool] = False
    global_is: ClassVar[str | None] = "the one that the run began with, as nothing is ever sent"
    refuses_client_level: ClassVar[str | None] = NOTHING_LEAVES
    refuses_example_level: ClassVar[str | None] = NOTHING_LEAVES

    def private(self, layout: Layout) -> Collection[str]:
        """All parameters."""
        return layout.names
