"""Runs without their reports, which take longer than these runs."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", lambda path: None)
