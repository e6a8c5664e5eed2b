"""``fedsim sweep``: many runs of one scenario at different settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

SOURCE_HELP = "A sweep file (fedsim list sweep), or with --resume its directory."
RETRY_HELP = "With --resume: go on with the runs that failed, too."
SET_HELP = "Set any value of the base scenario, e.g. --set rounds=5 (repeatable)."


def sweep(
    source: Annotated[Path, typer.Argument(metavar="SWEEP", help=SOURCE_HELP)],
    out: Annotated[Path | None, typer.Option(help="The sweep's directory; must not exist, unless --resume.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a sweep that was stopped.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help=RETRY_HELP)] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help=SET_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print sweep.json alone on standard output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run a scenario at many settings and seeds, several at once; the record says what privacy costs.

    What a sweep file says: fedsim list sweep. Check one without running it: fedsim check SWEEP. Exits with 1 if a run
    failed (the others are kept, and the report is written), with 2 if nothing could begin.
    """
    import fedsim
    from fedsim.sweeps.console import failure_lines, print_sweep, watch

    with watch(quiet or as_json) as watcher:
        result = fedsim.sweep(source, out, resume, overrides or (), watcher, retry_failed=retry_failed)
    if as_json:
        print(json.dumps(result.summary, indent=2))
    else:
        print_sweep(result)
    for line in failure_lines(result):
        print(line, file=sys.stderr)
    raise SystemExit(result.exit_code)
