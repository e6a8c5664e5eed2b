"""``fedsim export``: the record of a run, or of a sweep, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, or a sweep's (csv and parquet).")],
    to: Annotated[str, typer.Option(help="csv, parquet, tensorboard, mlflow or wandb (offline).")],
    out: Annotated[Path | None, typer.Option(help="Folder to write into (default RUN/export/<to>).")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Write a run's rounds and summary, or a sweep's table of runs, for another tool; nothing is sent to anybody.

    csv: rounds.csv and summary.csv of a run, table.csv of a sweep. parquet: the same with the summary in the file.
    """
    import fedsim

    print(fedsim.export(run, to, out))
