"""Runs without their reports, which take longer than these runs."""

from __future__ import annotations

import pytest


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without report.html."""
    monkeypatch.setattr("fedsim.running.build_report", lambda path: None)
