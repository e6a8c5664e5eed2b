"""Engines: where clients live. Each is a Flower ``Grid``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedsim.engines.inprocess import InProcessGrid

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from fedsim.federation import Federation

__all__ = ["InProcessGrid", "opened"]


@contextmanager
def opened(federation: Federation) -> Iterator[tuple[Grid, Federation]]:
    """The grid of the scenario's engine for as long as the context lasts, and the federation as it trains there.

    Raises ``BadInput`` if the engine cannot be had.
    """
    engine = federation.scenario.engine
    if engine.kind == "ray":
        from fedsim.engines.ray_cluster import connected

        with connected(engine):  # which comes before Ray is imported
            from fedsim.engines.ray import ray_grid

            with ray_grid(federation) as opened_grid:
                yield opened_grid
        return
    from fedsim.client import app

    yield InProcessGrid(app), federation
