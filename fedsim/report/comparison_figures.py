"""The figures of a comparison: curves over the rounds on top of each other, quality against epsilon, clients."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fedsim.report import plain
from fedsim.report.canvas import BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILLION, Panel, draw
from fedsim.report.figures import Points, series, thin
from fedsim.report.frontier.panels import epsilon_ticks
from fedsim.report.metrics import METRIC_UNITS, is_share, metric_title, parted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedsim.comparing import Comparison
    from fedsim.comparing.runs import Group

LOOKS = [
    (BLUE, "-", "o"),
    (VERMILLION, "--", "s"),
    (GREEN, "-.", "^"),
    (ORANGE, ":", "D"),
    (PURPLE, "-", "v"),
    (SKY, "--", "P"),
    (INK, "-.", "X"),
]
"""Colour, line and marker: what one does not show, in print or to the colour-blind, another does."""
MOST_FAINT, LABEL_LENGTH = 200, 38


def panels(comparison: "Comparison") -> list[Panel]:
    """All figures that the record has something for."""
    groups, facts = comparison.groups, comparison.facts
    name = facts["groups"][0]["main_metric"]
    drawn = [_curves("curves-loss", "loss", groups)]
    if name not in (None, "loss"):
        drawn.insert(0, _curves("curves-metric", name, groups))
    drawn += [_curves(f"curves-{unit}", f"epsilon_{unit}", groups) for unit in ("example", "client")]
    drawn += [_trade_off(facts, unit) for unit in ("example", "client")] + [_clients(groups)]
    return [panel for panel in drawn if panel is not None]


def axis_of(name: str) -> tuple[float, str]:
    """By what values are multiplied, and what the axis is called."""
    if name.startswith("epsilon_"):
        return 1.0, f"ε spent, one {'record' if name.endswith('example') else 'client'} (no unit)"
    share, base = is_share(name), parted(name)[0]
    unit = "% of what is tested" if share else METRIC_UNITS.get(base, "in the metric's own unit")
    return 100.0 if share else 1.0, f"{metric_title(name)} ({unit})"


def mean_curve(group: "Group", name: str) -> list[tuple[int, float, float, float]]:
    """Round, mean, least and largest value over a group's runs, where all that got so far have one."""
    values: dict[int, list[float]] = {}
    for run in group.runs:
        for at, value in series(run.rounds, name):
            values.setdefault(at, []).append(value)
    return [(at, fmean(found), min(found), max(found)) for at, found in sorted(values.items())]


def _curves(key: str, name: str, groups: "Sequence[Group]") -> Panel | None:
    factor, label = axis_of(name)
    found = [(group.title, curve) for group in groups if (curve := mean_curve(group, name))]
    if not found:
        return None
    title = f"{'Privacy spent' if name.startswith('epsilon_') else metric_title(name)} over the rounds"
    rest = len(found) - len(LOOKS)
    caption = "Mean over seeds; the shade goes from the least to the largest of them." + (
        f" The first {len(LOOKS)} of {len(found)} groups have a colour, others are grey"
        f"{f', {MOST_FAINT} of them' if rest > MOST_FAINT else ''}."
        if rest > 0
        else ""
    )

    def paint(figure: "Figure", axes: "Axes") -> None:
        _faint(axes, [curve for _, curve in found[len(LOOKS) :]], factor)
        for (text, curve), (colour, dash, _) in zip(found, LOOKS, strict=False):
            kept = {at for at, _ in thin([(at, mean) for at, mean, _, _ in curve])}
            at, mean, low, high = zip(*(point for point in curve if point[0] in kept), strict=True)
            scaled = [[factor * value for value in values] for values in (mean, low, high)]
            axes.plot(at, scaled[0], dash, color=colour, label=_short(text), marker="o" if len(at) == 1 else "")
            axes.fill_between(at, scaled[1], scaled[2], color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel("Round (number)")
        axes.set_ylabel(label)
        figure.legend(loc="outside upper left", ncols=1)

    return draw(key, title, caption, paint, 2.6 + 0.19 * min(len(found), len(LOOKS)))


def _faint(axes: "Axes", curves: Sequence[list[tuple[int, float, float, float]]], factor: float) -> None:
    for curve in curves[:MOST_FAINT]:
        points: Points = [(at, factor * mean) for at, mean, _, _ in curve[:: -(-len(curve) // 50)]]
        axes.plot(*zip(*points, strict=True), color=MUTED, alpha=0.35, linewidth=0.6)


def _short(label: str) -> str:
    return label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"


def _trade_off(facts: dict[str, Any], unit: str) -> Panel | None:
    """The main metric against a unit's epsilon; what gives no guarantee is a line."""
    name = facts["groups"][0]["main_metric"]
    if name is None:
        return None
    factor, label = axis_of(name)
    known = [(each, each["metrics"][name]) for each in facts["groups"] if each["whole"] and each["metrics"].get(name)]
    points = [
        (spent, found) for each, found in known if (spent := plain.finite(each["privacy"].get(unit, {}).get("epsilon")))
    ]
    free = [found["mean"] for each, found in known if "none" in each["privacy"]]
    if len(points) < 2:
        return None

    def paint(figure: "Figure", axes: "Axes") -> None:
        at, mean = [spent for spent, _ in points], [factor * found["mean"] for _, found in points]
        reach = [0.0 if found["low"] is None else factor * (found["high"] - found["low"]) / 2 for _, found in points]
        axes.errorbar(at, mean, yerr=reach, fmt="o", color=BLUE, markersize=4, linewidth=1.2, capsize=2)
        if free:
            axes.axhline(factor * max(free), color=VERMILLION, linestyle="--", label="best without privacy")
            figure.legend(loc="outside upper left")
        axes.set_xscale("log")
        epsilon_ticks(axes, at, None)
        axes.set_xlabel(axis_of(f"epsilon_{unit}")[1].replace("no unit", "no unit, log scale"))
        axes.set_ylabel(label)

    caption = (
        "Each point is a group of runs, with the interval of its mean over seeds where there are two or more. What was "
        "cut short is left out."
    )
    return draw(f"trade-off-{unit}", f"{metric_title(name)} against ε", caption, paint)


def _clients(groups: "Sequence[Group]") -> Panel | None:
    """Which share of the clients has at most so much of the metric, for the first groups."""
    from fedsim.comparing.measures import client_values

    found = [
        (group, [value for run in group.runs for _, value in client_values(run)]) for group in groups[: len(LOOKS)]
    ]
    known = [(group.title, sorted(values)) for group, values in found if values]
    if not known:
        return None
    name = next(
        str(run.clients["metrics_by_client"]["metric"]) for group, values in found if values for run in group.runs
    )
    factor, label = axis_of(name)

    def paint(figure: "Figure", axes: "Axes") -> None:
        for (text, values), (colour, dash, _) in zip(known, LOOKS, strict=False):
            shares = [100 * (number + 1) / len(values) for number in range(len(values))]
            axes.step(
                [factor * value for value in values], shares, dash, where="post", color=colour, label=_short(text)
            )
        axes.set_xlabel(label)
        axes.set_ylabel("Clients at or below (%)")
        axes.set_ylim(0, 102)
        figure.legend(loc="outside upper left", ncols=1)

    caption = "The model on what each client held back, over all clients and seeds: the lower left are those who pay."
    return draw("clients", "Who fares how", caption, paint, 2.6 + 0.19 * len(known))
