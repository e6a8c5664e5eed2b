"""The page of a comparison: one self-contained file in the report's style."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fedsim.errors import BadInput
from fedsim.report.comparison_figures import panels

if TYPE_CHECKING:
    from fedsim.comparing import Comparison

HERE = Path(__file__).parent
MOST_COLUMNS = 12  # of the table of differences; with more groups it has a line for each group instead
MOST_PAIRS = 200


def write_comparison(comparison: "Comparison", file: Path) -> Path:
    """Write the comparison to a file that ends with .html.

    Raises ``BadInput`` for another ending, for a file that exists already, and where it cannot be written.
    """
    if file.suffix.lower() != ".html":
        raise BadInput(f"--html {file}: the page is written as .html.")
    if file.exists():
        raise BadInput(f"--html {file}: it exists already; name another file.")
    try:
        file.write_text(render(comparison, file.parent), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--html {file}: it cannot be written: {error.strerror}.") from error
    return file


def render(comparison: "Comparison", folder: Path) -> str:
    """The comparison as one HTML document; links to the runs' own reports are relative to ``folder``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from fedsim.comparing.text import client_rows, paired_rows, result_rows

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    facts, pairs = comparison.facts, paired_rows(comparison.facts)
    return environment.get_template("comparison.html.j2").render(
        style=style,
        markup=Markup,
        groups=len(comparison.groups),
        runs=sum(len(group.runs) for group in comparison.groups),
        results=result_rows(facts),
        links=[_links(group.runs, folder) for group in comparison.groups],
        differences=_differences(facts),
        pairs=pairs[:MOST_PAIRS],
        left_out=len(pairs[MOST_PAIRS:]),
        clients=client_rows(facts),
        panels=panels(comparison),
        notes=facts["notes"],
    )


def _links(runs: Any, folder: Path) -> list[tuple[str, str]]:
    """Seed and report of each run, where it has one."""
    return [
        (str(run.seed), quote(Path(os.path.relpath(run.path / "report.html", folder.resolve())).as_posix()))
        for run in runs
        if (run.path / "report.html").exists()
    ]


def _differences(facts: dict[str, Any]) -> list[dict[str, str]]:
    """The settings that differ: a column for each group, or of many groups a line for each."""
    from fedsim.comparing.labels import setting_text
    from fedsim.comparing.text import difference_rows, title

    if len(facts["groups"]) <= MOST_COLUMNS:
        return difference_rows(facts)
    return [
        {"group": title(group), **{each["key"]: setting_text(each["values"][at]) for each in facts["differences"]}}
        for at, group in enumerate(facts["groups"])
    ]
