"""The page: what the template is given, and the file that it becomes."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from fedsim.durable import write_whole, writing
from fedsim.report import plain
from fedsim.report.canvas import Panel
from fedsim.report.frontier import fairness, looking, words
from fedsim.report.frontier.axes import axes_of
from fedsim.report.frontier.inputs import read_sweep
from fedsim.report.frontier.panels import axis_panel, epsilon_panel
from fedsim.report.frontier.settings import MEASURED
from fedsim.report.frontier.table import table
from fedsim.report.frontier.view import View, epsilon_view, view_of
from fedsim.report.headline import Tile
from fedsim.report.metrics import metric_text, metric_title

HERE = Path(__file__).parent.parent


def build_frontier(directory: Path) -> Path:
    """Write `frontier.html` from the record in a sweep's directory alone, atomically, and return its path.

    The same record gives the same bytes. Raises FileNotFoundError where there is no record, ValueError where a
    file of it is damaged, and `FedsimError` where the page cannot be written.
    """
    return write_frontier(view_of(read_sweep(Path(directory))))


def write_frontier(view: View) -> Path:
    """The same of a record that is read already; raises `FedsimError` where the page cannot be written."""
    page, report = render(view), view.record.directory / "frontier.html"
    with writing(str(report)):
        write_whole(report, page.encode())
    return report


def frontier_panels(directory: Path) -> list[Panel]:
    """The figures against epsilon from a sweep's record; where no setting is private, against whatever else varies."""
    view = view_of(read_sweep(Path(directory)))
    return _frontiers(view) or [axis_panel(view, axis) for axis in axes_of([each.setting for each in view.scored])]


def render(view: View) -> str:
    """The report as one HTML document; everything from the record is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup("".join((HERE / name).read_text(encoding="utf-8") for name in ("report.css", "frontier.css")))
    script = (HERE / "frontier_script.js.j2").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    given = {"style": style, "script": Markup(script), "script_hash": digest, "markup": Markup, **context(view)}
    return environment.get_template("frontier.html.j2").render(**given)


def context(view: View) -> dict[str, Any]:
    """Everything that the template prints."""
    groups = fairness.compared(view)
    return {
        "name": view.record.name,
        "opening": words.opening(view),
        "tiles": _tiles(view),
        "frontiers": _frontiers(view),
        "findings": words.findings(view),
        "multiples": [axis_panel(view, axis) for axis in axes_of([each.setting for each in view.scored])],
        "table": table(view),
        "stance": looking.stance(view),
        "bills": looking.bills(view),
        "public": looking.is_public(view),
        "fair_panels": fairness.panels(view, groups),
        "fair_rows": fairness.rows(view, groups),
        "fair_verdict": fairness.verdict(view, groups),
        "counts": [(end.replace("_", " "), plain.count(number)) for end, number in words.counts(view).items()],
        "failures": words.failures(view),
        "left_out": max(0, _unmeasured(view) - words.MOST_FAILURES),
    }


def _frontiers(view: View) -> list[Panel]:
    panels = [epsilon_panel(view, unit) for unit in view.units]
    return [panel for panel in panels if panel is not None]


def _unmeasured(view: View) -> int:
    return sum(row.get("status") not in MEASURED for row in view.record.rows)


def _tiles(view: View) -> list[Tile]:
    """The key numbers: without privacy, and for each unit the cheapest setting that is good enough."""
    settings, runs = plain.count(len(view.settings)), plain.plural(len(view.record.rows), "run")
    tiles = [Tile("Settings", settings, f"{runs} in all")]
    if view.reference is not None:
        shown = metric_text(view.metric, view.reference.score.value)
        tiles.append(
            Tile(f"{metric_title(view.metric)} without privacy", shown, f"setting {view.reference.setting.number}")
        )
    if view.trivial is not None:
        tiles.append(Tile("Without learning", metric_text(view.metric, view.trivial[0]), view.trivial[1]))
    for unit in view.units if view.reference is not None else []:
        point = epsilon_view(view, unit).cheapest
        value = "—" if point is None else plain.epsilon(point.cost)
        note = "no setting" if point is None else f"setting {point.setting.number}"
        tiles.append(Tile(f"ε per {'record' if unit == 'example' else 'client'} for 95 % of that", value, note))
    return [*tiles, *_looking_tiles(view)]


def _looking_tiles(view: View) -> list[Tile]:
    """What all runs together spend, for the first unit."""
    for unit, cost in list(view.costs.items())[:1]:
        if not isinstance(cost, str):
            name = f"ε per {'record' if unit == 'example' else 'client'} of the whole sweep"
            note = "all runs together" if not cost.open_runs else "all runs with a guarantee together"
            return [Tile(name, plain.epsilon(cost.found.everything), note)]
    return []
