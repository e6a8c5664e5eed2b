"""No global generator: what a block of code may not touch, and who may ask the operating system for randomness."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import fedsim

PACKAGE = Path(fedsim.__file__).parent
# What a run may ask the system for, whatever its randomness: its own name and its jobs', by which a late answer is told
# from the one that is waited for, and what keeps strangers from its cluster. FLamby's split is scikit-learn's of a
# seed, for which NumPy makes a generator of the system's randomness first and seeds it then.
NAMES = {
    ("record.py", "environment"),
    ("messages.py", "<lambda>"),
    ("engines/ray_cluster.py", "_token"),
    ("data/heart_disease.py", "_split"),
}
# Where noise, batches and cohorts come from the system: only where the scenario says so.
SECURE = {("privacy/keystream.py", "of"), ("privacy/secure.py", "_rekey"), ("running.py", "_ledger")}

State = Callable[[], Any]


def _numpy_state() -> tuple[bytes, Any]:
    state: Any = np.random.get_state()  # noqa: NPY002
    # All of it: a draw moves the position only, until the block of numbers that was made at once is used up.
    return state[1].tobytes(), state[2:]


GENERATORS: dict[str, State] = {
    "Python's random": random.getstate,
    "NumPy's numpy.random": _numpy_state,
    "torch's default generator": lambda: torch.get_rng_state().numpy().tobytes(),
}


@contextmanager
def untouched(secure: bool = False) -> Iterator[None]:
    """Raise ``AssertionError`` if the block touches a global generator, or fedsim in it asks the system for randomness.

    ``secure`` is whether the block runs a scenario that wants the system's randomness.
    """
    allowed = NAMES | SECURE if secure else NAMES
    asked: list[tuple[str, str]] = []
    before = {name: state() for name, state in GENERATORS.items()}
    with mock.patch.object(os, "urandom", _told(os.urandom, asked)), mock.patch("random._urandom", os.urandom):
        yield
    for name, state in GENERATORS.items():
        assert state() == before[name], f"{name}, which is global, was used"
    strangers = sorted(set(asked) - allowed)
    assert not strangers, f"the system was asked for randomness by {strangers}"


def _told(urandom: Callable[[int], bytes], asked: list[tuple[str, str]]) -> Callable[[int], bytes]:
    """The system's randomness, but who of fedsim asks for it is noted."""

    def tell(count: int) -> bytes:
        frame = sys._getframe(1)
        while frame is not None and not Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None:
            asked.append((Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix(), frame.f_code.co_name))
        return urandom(count)

    return tell


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every global generator seeded, and put back afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
