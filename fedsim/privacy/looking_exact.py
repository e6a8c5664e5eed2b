"""What many runs cost by the reported accountant, where some client of every run bounds all the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Composition, Event, compose

Ids = npt.NDArray[np.int64]
History = list[tuple[Event, int, "Ids | None"]]

MOST_EVENTS = 40  # different ones in a composition: each takes the accountant a part of a second
MOST_SETTINGS = 12
VAST = 1e4  # an epsilon from here on is given by its Renyi bound, as in a plan


def dominating(history: History) -> Composition | None:
    """The events of a client who has every event at least as often as any other; None if there is no such client.

    Such a client loses most under any accountant, because one more event never loses less.
    """
    events = sorted({event for event, _, clients in history if clients is not None})
    everyone = [(event, count) for event, count, clients in history if clients is None]
    if not events:
        return compose(everyone)
    if len(events) > MOST_EVENTS:
        return None
    most = 1 + max(int(clients.max(initial=0)) for _, _, clients in history if clients is not None)
    counts = np.zeros((most, len(events)), np.int64)
    for event, count, clients in history:
        if clients is not None:
            counts[clients, events.index(event)] += count
    top = counts.max(axis=0)
    if not (counts == top).all(axis=1).any():
        return None
    return compose([*everyone, *zip(events, top.tolist(), strict=True)])


def composed(runs: Iterable[Composition | None]) -> Composition | None:
    """All runs as one composition; None where one has no dominating client, or the accountant would take too long."""
    parts = list(runs)
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    whole = compose(event for part in known for event in part)
    relations = {event.relation for event, _ in whole}
    return whole if len(whole) <= MOST_EVENTS and len(relations) <= 1 else None


def tighter(whole: Composition | None, bound: float, delta: float) -> tuple[float, str]:
    """The smaller of a Renyi bound and the reported accountant's figure, and which that is: "rdp" or "pld"."""
    if whole is None or not bound < VAST:
        return bound, "rdp"
    exact = epsilon(whole, delta)
    return (exact, "pld") if exact <= bound else (bound, "rdp")


def dearest(settings: Sequence[Composition | None], bounds: Sequence[float], delta: float) -> tuple[float, str]:
    """The largest figure over settings, from the largest of their Renyi ``bounds`` down; none is too small."""
    found = (-math.inf, "pld")
    order = sorted(range(len(bounds)), key=bounds.__getitem__, reverse=True)
    for number, index in enumerate(order):
        if bounds[index] <= found[0]:
            break
        if number == MOST_SETTINGS:
            return bounds[index], "rdp"
        found = max(found, tighter(settings[index], bounds[index], delta))
    return found
