"""Ctrl-C and SIGTERM: where they may strike, and where they wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from fedsim.errors import FedsimError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(FedsimError):
    """Stopped by the user; what was begun can be resumed."""

    exit_code = 130


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals wait until the block is over, for what it does belongs together."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal interrupts another thread
        return
    waiting: list[int] = []
    before: dict[int, Any] = {}
    try:
        for each in SIGNALS:
            if (handler := signal.getsignal(each)) is not None:  # None could not be put back
                before[each] = handler
                signal.signal(each, lambda number, _: waiting.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Let SIGTERM, by which systems stop a process, do what Ctrl-C does for as long as the block lasts."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) is None:
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
