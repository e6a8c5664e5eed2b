"""What an asynchronous method is, for the server: how many updates make a step, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from fedsim.asynchronous.staleness import STALENESS, Staleness
from fedsim.settings import choice

if TYPE_CHECKING:
    StalenessChoice = Staleness
else:
    StalenessChoice = choice("kind", STALENESS)


class Asynchronous(Protocol):
    """What an entry of the table of asynchronous methods offers."""

    # Whether the step goes from the model towards the clients' own models, and not along their updates.
    mixes: ClassVar[bool]

    @property
    def kind(self) -> str:
        """Its name in the table."""

    @property
    def buffer_size(self) -> int:
        """How many updates make a step."""

    @property
    def concurrency(self) -> int:
        """How many clients work at a time."""

    @property
    def staleness(self) -> Staleness:
        """How late updates are weighted."""

    @property
    def factor(self) -> float:
        """What the step is scaled by, beside the server's learning rate."""
