"""Flower's own runtime as an engine: what it leaves to the app that it runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import FedsimError

if TYPE_CHECKING:
    from flwr.serverapp import Grid

NODE_SECONDS = 60.0
LOOK_SECONDS = 0.1


def await_nodes(grid: Grid, seconds: float = NODE_SECONDS) -> None:
    """Wait until the grid has nodes: Flower's simulation starts the app first. Raises ``FedsimError`` after so long."""
    end = time.monotonic() + seconds
    while not list(grid.get_node_ids()):
        if time.monotonic() > end:
            raise FedsimError(f"No node has connected in {seconds:g} s.")
        time.sleep(LOOK_SECONDS)


def sent_file(grid: Grid, path: str) -> Path:
    """A file of the app as ``flwr run`` sent it, or where it sent none of that name, as it is found here."""
    from flwr.common.config import get_project_dir

    run = grid.run
    sent = get_project_dir(run.fab_id, run.fab_version, run.fab_hash) / path
    return sent if sent.is_file() else Path(path)
