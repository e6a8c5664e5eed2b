"""The frontier's figures: the metric against epsilon for each unit, and against whatever else varies."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from fedsim.report import plain
from fedsim.report.canvas import GRID, Panel, draw
from fedsim.report.frontier import marks
from fedsim.report.frontier.axes import Axis
from fedsim.report.frontier.marks import Marked, Marks, Run, baselines, linked
from fedsim.report.frontier.pareto import Point
from fedsim.report.frontier.settings import Quantity, epsilon_of, measure
from fedsim.report.frontier.view import View, cost_front, epsilon_view
from fedsim.report.metrics import METRIC_UNITS, is_share, metric_title, parted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ASIDE = 8
OF = {"example": "one record", "client": "one client"}
BARS = "The bars are 95 % t intervals of the mean over seeds."


def metric_label(metric: str) -> str:
    """A metric's axis: its title with its unit."""
    base = parted(metric)[0]
    unit = "%" if is_share(metric) else METRIC_UNITS.get(base, "in the metric's own unit")
    return f"{metric_title(metric)} ({unit})"


def epsilon_panel(view: View, unit: str) -> Panel | None:
    """The metric against epsilon of a unit, with its Pareto set; None where no setting gives that guarantee."""
    found = epsilon_view(view, unit)
    finite = [mark.cost for mark in found.points if math.isfinite(mark.cost)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    beyond = high * max((high / low) ** 0.2, 1.6)
    shown = _marks(view, found.points, found.front, lambda row: epsilon_of(row, unit))
    guarded = [replace(mark, private=math.isfinite(mark.point.cost)) for mark in shown.points]
    shown = replace(shown, points=guarded, rings=found.rings, shifts=_aside(found.points, high / low))
    unguarded = any(math.isinf(mark.cost) for mark in found.points)

    def place(cost: float) -> float:
        return cost if math.isfinite(cost) else beyond

    def paint(figure: "Figure", axes: "Axes") -> None:
        axes.set_xscale("log")
        baselines(axes, view.baselines, shown)
        marks.paint(axes, shown, place)
        epsilon_ticks(axes, finite, beyond if unguarded else None)
        axes.set_xlabel(f"ε for {OF[unit]} (no unit, log scale)")
        axes.set_ylabel(metric_label(view.metric))
        figure.legend(loc="outside upper left", ncols=2, handletextpad=0.4, columnspacing=1.0)

    title = f"{metric_title(view.metric)} against ε for {OF[unit]}"
    return linked(draw(f"frontier-{unit}", title, _caption(view, unguarded), paint, 4.1), shown.hovers)


def _aside(points: Sequence[Point], ratio: float) -> dict[int, float]:
    """By what factor each setting of few that have the same cost is moved, so that all of them are seen."""
    groups: dict[str, list[int]] = {}
    for point in points:
        groups.setdefault(f"{point.cost:.2g}", []).append(point.setting.number)
    step = max(ratio, 2.0) ** 0.035
    crowded = [numbers for numbers in groups.values() if 1 < len(numbers) <= MOST_ASIDE]
    return {
        number: step ** (index - (len(numbers) - 1) / 2) for numbers in crowded for index, number in enumerate(numbers)
    }


def _caption(view: View, unguarded: bool) -> str:
    bars = f" {BARS}" if any(each.score.known for each in view.scored) else " One seed each gives no interval."
    if any(each.score.known and each.score != each.possible for each in view.scored):
        bars += " An arrow at an end: it goes on beyond what is possible."
    if any(each.score.known for each in view.scored) and len(view.scored) > marks.MOST_BARS:
        bars = f" {BARS[:-1]}; they are drawn for the Pareto set alone."
    place = " Settings without that guarantee (ε = ∞) stand at the right." if unguarded else ""
    return (
        "Every point is a setting of the sweep. The Pareto set, joined by a stepped line, are the settings to which no "
        f"other is at least as private and better by the mean. Those of the same ε stand side by side.{place}{bars}"
    )


def epsilon_ticks(axes: "Axes", finite: Sequence[float], beyond: float | None) -> None:
    """The values themselves where they are few, else round numbers; the place of infinity behind a line of its own."""
    low, high = min(finite), max(finite)
    ticks = sorted({float(f"{value:.2g}") for value in finite})
    if len(ticks) > 8 or any(right / left < (high / low) ** 0.07 for left, right in pairwise(ticks)):
        ticks = tick_values(low, high)
    names = [f"{tick:g}" for tick in ticks]
    right = high * 1.25
    if beyond is not None:
        axes.axvline(math.sqrt(high * beyond), color=GRID, linewidth=1.4)
        ticks, names, right = [*ticks, beyond], [*names, "∞"], beyond * (beyond / high) ** 0.5
    axes.set_xticks(ticks, names)
    axes.set_xticks([], minor=True)
    axes.set_xlim(low / 1.25, right)


def tick_values(low: float, high: float) -> list[float]:
    """At most seven round numbers between two positive ends, or the ends themselves where there are none."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        found = [step * 10.0**power for power in powers for step in steps]
        within = [value for value in found if low * 0.97 <= value <= high * 1.03]
        if 2 <= len(within) <= 7:
            return within
    if len(within) > 7:
        return within[:: -(-len(within) // 7)]
    return sorted({float(f"{low:.3g}"), float(f"{high:.3g}")})


def axis_panel(view: View, axis: Axis) -> Panel:
    """The metric against a quantity that varies, small."""
    points, front = cost_front(view, axis)
    shown = _marks(view, points, front, axis.quantity)
    values = [point.cost for point in points]
    divisor, unit = plain.byte_scale(max(values)) if axis.unit == "bytes" else (1.0, axis.unit)
    wide = min(values) > 0 and max(values) / min(values) > 20

    def place(cost: float) -> float:
        return cost / divisor

    def paint(_: "Figure", axes: "Axes") -> None:
        if wide:
            axes.set_xscale("log")
        baselines(axes, view.baselines, shown)
        marks.paint(axes, shown, place)
        _ticks(axes, min(values) / divisor, max(values) / divisor, wide)
        axes.set_xlabel(f"{axis.title} ({unit}{', log scale' if wide else ''})")
        axes.set_ylabel(metric_label(view.metric))

    joined = " The stepped line joins the Pareto set: less of it, or better." if axis.cost else ""
    missing = len(view.scored) - len(points)
    absent = f" {plain.plural(missing, 'setting')} without it left out." if missing else ""
    what = f"{_inside(axis.title)}{axis.note}"
    caption = f"{metric_title(view.metric)} against {what}, mean over the seeds of a setting.{absent}{joined}"
    return linked(draw(f"frontier-{axis.key}", f"Against {_inside(axis.title)}", caption, paint), shown.hovers)


def _ticks(axes: "Axes", low: float, high: float, wide: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    if wide:
        values = tick_values(low, high)
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], min_n_ticks=2))
        axes.ticklabel_format(axis="x", useOffset=False, style="plain")


def _inside(title: str) -> str:
    return title[:1].lower() + title[1:]


def _marks(view: View, points: Sequence[Point], front: list[Point], quantity: Quantity) -> Marks:
    """The points with their intervals and links, and their runs where they are few."""
    found = [(point, view.of(point.setting)) for point in points]
    drawn = [
        Marked(point, each.possible, each.setting.private, each.link, each.hover, each.score) for point, each in found
    ]
    return Marks(drawn, front, _runs(view, points, quantity), {}, 100.0 if is_share(view.metric) else 1.0)


def _runs(view: View, points: Sequence[Point], quantity: Quantity) -> list[Run]:
    """The single runs of settings with several seeds, where they are few enough to be told apart."""
    rows = [row for point in points if len(point.setting.measured) > 1 for row in point.setting.measured]
    if len(rows) > marks.MOST_RUNS:
        return []
    found = [(row, quantity(row), measure(row, view.metric)) for row in rows]
    return [
        Run(
            row["trial"],
            cost,
            score,
            view.links.get((row["trial"], row["seed"]), ""),
            f"setting {row['trial']}, seed {row['seed']}",
        )
        for row, cost, score in found
        if cost is not None and score is not None
    ]
