"""For every run of every entry of every table: no global generator is touched, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.conformance.guard import untouched
from tests.conformance.promises import quick

EMPTY = '<svg width="1pt" height="1pt" viewBox="0 0 1 1" xmlns="http://www.w3.org/2000/svg"></svg>'


@pytest.fixture(autouse=True)
def _no_global_generator(request: pytest.FixtureRequest) -> Iterator[None]:
    with untouched(secure="secure_randomness" in request.fixturenames):
        yield


@pytest.fixture
def secure_randomness() -> None:
    """For a test whose runs want the system's randomness."""


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with quick(reports=True):
        yield


@pytest.fixture
def sketches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of reports are painted, but not laid out and written: that takes ten times as long as a run."""

    def save(self: Figure, stream: Any, **options: Any) -> None:
        stream.write(EMPTY)

    monkeypatch.setattr(Figure, "savefig", save)
