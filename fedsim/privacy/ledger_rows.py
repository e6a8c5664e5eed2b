"""What a row of the ledger says, or that no run wrote it: a wrong row would charge the wrong client, or nobody."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np

from fedsim.privacy.events import Event, Relation, Sampling
from fedsim.privacy.plan import Charge, Unit


def charge_of(row: tuple[Any, ...], clients: int) -> Charge:
    """The charge in (unit, noise_multiplier, rate, sampling, relation, count, ids); raises ``ValueError``."""
    unit, noise, rate, sampling, relation, count, blob = row
    if unit not in get_args(Unit) or sampling not in get_args(Sampling) or relation not in get_args(Relation):
        raise ValueError(f"{unit!r}, {sampling!r} or {relation!r} is nothing that is charged")
    if not isinstance(noise, float) or not isinstance(rate, float) or not isinstance(count, int) or count < 0:
        raise ValueError(f"{noise!r}, {rate!r} or {count!r} is no number, or below 0")
    event = Event(noise, rate, sampling, relation)
    if blob is None:
        return Charge(unit, event, count, None)
    if not isinstance(blob, bytes):
        raise ValueError("the clients are no list of numbers")
    ids = np.frombuffer(blob, "<i8")
    if len(ids) and (ids.min() < 0 or ids.max() >= clients or len(np.unique(ids)) < len(ids)):
        raise ValueError("it names a client twice, or one that there is not")
    return Charge(unit, event, count, ids)
