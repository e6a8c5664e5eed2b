"""Engines: where clients live. Each is a Flower ``Grid``."""

from __future__ import annotations

from fedsim.engines.inprocess import InProcessGrid

__all__ = ["InProcessGrid"]
