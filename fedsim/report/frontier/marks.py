"""The marks of the frontier's figures: settings, their intervals, the Pareto set, the baselines; and links on them."""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fedsim.report.canvas import BLUE, GREEN, INK, MUTED, PURPLE, SKY, VERMILLION, Panel
from fedsim.report.frontier.pareto import Point
from fedsim.report.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS, MOST_RUNS = 60, 300
RINGS = ((INK, "s", 12), (PURPLE, "o", 16))
Place = Callable[[float], float]


@dataclass(frozen=True)
class Marked:
    """A point with its interval, whether any guarantee holds, where it links to and what hovering says.

    ``whole`` is the interval before it was cut to what is possible: its ends are open where they were cut.
    """

    point: Point
    interval: Interval
    private: bool
    link: str
    hover: str
    whole: Interval


@dataclass(frozen=True)
class Run:
    """One seed's run: where it lies and what it links to."""

    setting: int
    cost: float
    score: float
    link: str
    hover: str


@dataclass(frozen=True)
class Marks:
    """All that a figure shows; ``front`` are the points of the Pareto set, ``rings`` what is pointed out, by name.

    ``shifts`` says by what factor a setting's place is moved aside, where others have the same.
    """

    points: list[Marked]
    front: list[Point]
    runs: list[Run]
    rings: dict[str, Point]
    factor: float = 1.0
    shifts: dict[int, float] = field(default_factory=dict)

    def at(self, point: Point, place: Place) -> float:
        """Where a point stands on the axis."""
        return place(point.cost) * self.shifts.get(point.setting.number, 1.0)

    @property
    def hovers(self) -> dict[str, str]:
        runs = {run.link: run.hover for run in self.runs if run.link}
        return runs | {mark.link: mark.hover for mark in self.points if mark.link}


def paint(axes: "Axes", marks: Marks, place: Place) -> None:
    """Everything but the baselines; ``place`` says where a cost lies on the axis."""
    chosen = {id(point) for point in marks.front}
    others = [mark for mark in marks.points if id(mark.point) not in chosen]
    _runs(axes, marks, place)
    _scatter(axes, [mark for mark in others if mark.private], marks, place, (BLUE, "o", "with a guarantee"))
    _scatter(axes, [mark for mark in others if not mark.private], marks, place, (GREEN, "^", "without a guarantee"))
    best = [mark for mark in marks.points if id(mark.point) in chosen]
    _front(axes, marks, place)
    _scatter(axes, best, marks, place, (VERMILLION, "D", "Pareto set"))
    _rings(axes, marks, place)


def _rings(axes: "Axes", marks: Marks, place: Place) -> None:
    """What is pointed out, in an open square and a larger open circle; small in the legend."""
    for (name, point), (colour, marker, size) in zip(marks.rings.items(), RINGS, strict=False):
        look: dict[str, Any] = {"marker": marker, "markerfacecolor": "none", "markeredgecolor": colour}
        axes.plot(
            marks.at(point, place), marks.factor * point.score, markersize=size, markeredgewidth=1.4, zorder=4, **look
        )
        axes.plot([], [], markersize=8, linestyle="", label=name, **look)


def _runs(axes: "Axes", marks: Marks, place: Place) -> None:
    if not marks.runs:
        return
    x = [place(run.cost) * marks.shifts.get(run.setting, 1.0) for run in marks.runs]
    y = [marks.factor * run.score for run in marks.runs]
    dots = axes.scatter(x, y, s=12, color=SKY, alpha=0.8, linewidths=0, label="single run (a seed)")
    dots.set_urls([run.link or None for run in marks.runs])


def _front(axes: "Axes", marks: Marks, place: Place) -> None:
    if len(marks.front) > 1:
        at = [(marks.at(point, place), marks.factor * point.score) for point in marks.front]
        axes.plot(*zip(*at, strict=True), color=VERMILLION, linewidth=1.4, drawstyle="steps-post", zorder=1.5)


def _scatter(axes: "Axes", drawn: list[Marked], marks: Marks, place: Place, look: tuple[str, str, str]) -> None:
    if not drawn:
        return
    colour, marker, name = look
    x = [marks.at(mark.point, place) for mark in drawn]
    y = [marks.factor * mark.point.score for mark in drawn]
    many = len(marks.points) > MOST_BARS
    if not many or (colour == VERMILLION and len(drawn) <= MOST_BARS):
        _bars(axes, drawn, marks, x)
    size = 14 if many and colour != VERMILLION else 38
    dots = axes.scatter(
        x, y, s=size, color=colour, marker=marker, edgecolors="white", linewidths=0.6, zorder=3, label=name
    )
    dots.set_urls([mark.link or None for mark in drawn])


def _bars(axes: "Axes", drawn: list[Marked], marks: Marks, x: list[float]) -> None:
    """The intervals, where there are any; dark, so that they are told from the stepped line.

    An end has a cap where it was computed, and an arrow where it was cut because no metric can go on.
    """
    known = [(at, mark) for at, mark in zip(x, drawn, strict=True) if mark.interval.known]
    for end, arrow in (("low", "v"), ("high", "^")):
        ends = [(at, getattr(mark.interval, end), getattr(mark.whole, end)) for at, mark in known]
        for marker, size, cut in (("_", 6, False), (arrow, 4, True)):
            places = [(at, marks.factor * shown) for at, shown, computed in ends if (shown != computed) is cut]
            look: dict[str, Any] = {"marker": marker, "markersize": size, "color": INK, "linestyle": "", "zorder": 2.5}
            if places:
                axes.plot(*zip(*places, strict=True), clip_on=not cut, **look)
    spans = [[marks.factor * end for end in (mark.interval.low, mark.interval.high)] for _, mark in known]
    if spans:
        axes.vlines([at for at, _ in known], *zip(*spans, strict=True), color=INK, linewidth=1.1, zorder=2.5)


def baselines(axes: "Axes", lines: Sequence[tuple[str, Interval]], marks: Marks) -> None:
    """Each baseline as a line across, with its interval as a band, and the axis of the metric.

    The second, the trivial one, stands below a break of the axis where it is so far off that it would flatten the rest.
    """
    spans = [(mark.interval.low, mark.interval.high) for mark in marks.points if mark.interval.known]
    spans += [(mark.point.score,) * 2 for mark in marks.points] + [(run.score,) * 2 for run in marks.runs]
    spans += [(line.value,) * 2 for _, line in lines[:1]]
    low, high = (marks.factor * end(values) for end, values in zip((min, max), zip(*spans, strict=True), strict=True))
    for (name, interval), (colour, dash) in zip(lines, ((GREEN, "--"), (MUTED, ":")), strict=False):
        value = marks.factor * interval.value
        far = value < low - 0.6 * (high - low) or value > high + 0.6 * (high - low)
        shown = _broken(axes, value, (low, high)) if far and colour == MUTED else value
        axes.axhline(shown, color=colour, linestyle=dash, linewidth=1.4, label=name, zorder=1)
        if interval.known:
            axes.axhspan(
                marks.factor * interval.low, marks.factor * interval.high, color=colour, alpha=0.1, linewidth=0
            )


def _broken(axes: "Axes", value: float, ends: tuple[float, float]) -> float:
    """Break the axis beyond the ends, and return where the value stands behind the break, with its own tick."""
    from matplotlib.ticker import MaxNLocator

    (low, high), below = ends, value < ends[0]
    margin = (high - low) or abs(high) * 0.1 or 1.0
    at, crack = (low - 0.3 * margin, low - 0.18 * margin) if below else (high + 0.3 * margin, high + 0.18 * margin)
    ticks = [
        tick
        for tick in MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, high)
        if low - 0.08 * margin <= tick <= high * 1.001
    ]
    axes.set_yticks([*ticks, at], [*(f"{tick:g}" for tick in ticks), f"{value:.3g}"])
    axes.set_ylim(min(low - 0.08 * margin, at - 0.06 * margin), max(high + 0.08 * margin, at + 0.06 * margin))
    slash: dict[str, Any] = {"marker": [(-1, -0.4), (1, 0.4)], "markersize": 9, "color": MUTED, "clip_on": False}
    for shift in (-0.02, 0.02):
        axes.plot(0, crack + shift * margin, transform=axes.get_yaxis_transform(), linestyle="", **slash)
    return at


def linked(panel: Panel, hovers: dict[str, str]) -> Panel:
    """The panel whose points can be followed and say what they are when hovered; "row:3" links to a row of the page."""

    def element(match: re.Match[str]) -> str:
        url = html.unescape(match[1])
        title = f"<title>{html.escape(hovers[url])}</title>" if hovers.get(url) else ""
        target = html.escape(re.sub(r"^row:", "#setting-", url))
        return f'<a xlink:href="{target}">{title}'

    svg = re.sub(r'<a xlink:href="([^"]*)"[^>]*>', element, panel.svg)
    return replace(panel, svg=svg.replace('role="img"', 'role="group"', 1) if hovers else svg)
