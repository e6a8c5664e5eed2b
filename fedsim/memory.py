"""Memory that runs out: how it is recognised, and what is done about it while clients train."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedsim.errors import FedsimError

Ids = NDArray[np.int64]
# What torch, its allocators and its libraries say where Python would raise MemoryError.
SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "alloc_failed")
ADVICE = "Lower engine.workers or algorithm.local.batch_size, take a smaller model, or give the process more memory."


class OutOfMemory(FedsimError):
    """There is not enough memory, also for as little at once as possible."""


class Sum(Protocol):
    """What clients' work adds up to."""

    def add(self, other: Self, /) -> None:
        """Add another part's."""


Part = TypeVar("Part", bound=Sum)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def in_words(error: BaseException) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@dataclass
class Halving:
    """Trains blocks of clients in the memory that there is: a block that does not fit becomes two, half as long.

    ``longest`` is how many clients fitted, None until memory runs out; what follows keeps to it. ``forget`` is called
    after a failure, to let go of what the attempt left behind.
    """

    forget: Callable[[], None]
    longest: int | None = field(default=None, init=False)

    def length(self, wanted: int) -> int:
        """How many clients to train at once where so many are wanted."""
        return wanted if self.longest is None else min(wanted, self.longest)

    def run(self, train: Callable[[Ids], Part], clients: Ids, divisible: bool = True) -> Part:
        """Train clients by ``train``, which changes nothing before it has all: at once, or in parts where it must be.

        Raises ``OutOfMemory`` if memory does not suffice for a single client, or for clients that cannot be divided.
        """
        try:
            return train(clients)
        except (MemoryError, RuntimeError) as error:
            if not ran_out(error):
                raise
            reason = in_words(error)
        # Not while the error is handled: it holds on to all that the attempt took.
        self.forget()
        gc.collect(1)  # what the attempt made is young
        if len(clients) == 1 or not divisible:
            raise OutOfMemory(_too_little(len(clients), reason))
        half = len(clients) // 2
        if self.longest is None or half < self.longest:
            self.longest = half
            _log_halving(len(clients), half, reason)
        return _added(self.run(train, part) for part in (clients[:half], clients[half:]))


def _added(parts: Iterable[Part]) -> Part:
    first, *others = parts
    for other in others:
        first.add(other)
    return first


def _too_little(clients: int, reason: str) -> str:
    who = "a single client" if clients == 1 else f"{clients} attackers, who train together because they collude,"
    return f"Out of memory: it does not suffice for {who} ({reason}). {ADVICE}"


def _log_halving(clients: int, half: int, reason: str) -> None:
    logging.getLogger("fedsim").warning(
        "Out of memory with %d clients in a block (%s). The run goes on with at most %d, and the same numbers; a lower "
        "engine.memory_gib begins with fewer.",
        clients,
        reason,
        half,
    )
