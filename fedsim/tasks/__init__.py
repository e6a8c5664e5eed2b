"""Tasks: data, loss and metrics together."""

from __future__ import annotations

from fedsim.tasks.classification import Classification

__all__ = ["Classification"]
