"""``fedsim data``: commands about the files of data sources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim.errors import BadInput

if TYPE_CHECKING:
    from fedsim.data.fetch import Progress

app = typer.Typer(help="The files of data sources.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """The files of data sources."""  # with a callback, a single command keeps its name


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data source, such as mnist.")],
    to: Annotated[Path | None, typer.Option(help="Folder (default: $FEDSIM_DATA/NAME).")] = None,
    dataset: Annotated[str | None, typer.Option(help="With hf: the data set's name on the hub.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Download the published files of a data source; checked by SHA-256, and resumed where it was cut short."""
    from fedsim.data import SOURCES
    from fedsim.data.fetch import fetch as fetch_files

    source = SOURCES.get(name)
    if source is None:
        raise BadInput(f"{name} is no data source; those that can be fetched: {', '.join(_fetched())}.")
    published = getattr(source, "published", None)
    if name == "hf":
        files = [_fetch_from_hub(dataset, to)]
    elif dataset is not None:
        raise BadInput(f"--dataset {dataset}: is for hf alone.")
    elif published is None:
        raise BadInput(f"{name} has no files to fetch.")
    else:
        with _shown(quiet) as progress:
            files = fetch_files(name, published, to, progress)
    for file in files:
        print(file)


def _fetched() -> list[str]:
    from fedsim.data import SOURCES

    return [*(name for name, source in SOURCES.items() if hasattr(source, "published")), "hf"]


def _fetch_from_hub(dataset: str | None, to: Path | None) -> Path:
    from fedsim.data.fetch import target_folder
    from fedsim.data.huggingface import fetch_from_hub, hub_folder
    from fedsim.paths import expanded

    if dataset is None:
        raise BadInput("hf: name the data set of the hub by --dataset, for example --dataset ylecun/mnist.")
    folder = expanded("--to", to) if to else target_folder("hf", None) / hub_folder(dataset)
    fetch_from_hub(dataset, folder)
    return folder


@contextmanager
def _shown(quiet: bool) -> Iterator[Progress]:
    """Show how far each file is, on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield lambda name, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, int] = {}

        def progress(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]

        yield progress
