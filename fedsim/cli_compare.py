"""``fedsim compare``: finished runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories, or a sweep's directory.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page with the curves to this file.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Compare runs: results, what differs in the scenarios, paired differences over seeds, who fares how."""
    import fedsim
    from fedsim.comparing.text import as_text
    from fedsim.jsonable import jsonable

    comparison = fedsim.compare(*runs)
    if html is not None:
        comparison.write_html(html)
    print(json.dumps(jsonable(comparison.facts), indent=2) if as_json else as_text(comparison.facts))
