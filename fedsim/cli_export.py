"""``fedsim export``: a run's record for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    to: Annotated[str, typer.Option(help="csv, parquet, tensorboard, mlflow or wandb (offline).")],
    out: Annotated[Path | None, typer.Option(help="Folder to write into (default RUN/export/<to>).")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write a run's rounds and summary for another tool; nothing is sent to anybody."""
    import fedsim

    print(fedsim.export(run, to, out))
