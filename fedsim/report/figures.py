"""The figures over rounds: metrics, epsilon, bytes and seconds. Each returns None where there is nothing to draw."""

from collections.abc import Sequence
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING

from fedsim.report import plain
from fedsim.report.canvas import BLUE, MUTED, ORANGE, SKY, VERMILLION, Panel, draw
from fedsim.report.inputs import Json
from fedsim.report.metrics import METRIC_UNITS, is_share, metric_text, metric_title, parted
from fedsim.report.statement import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = list[tuple[int, float]]
SUCCESS = "attack_success"  # has a section of its own
NOT_METRICS = frozenset(
    [
        SUCCESS,
        "staleness_mean",
        "staleness_max",
        "round",
        "seconds",
        "simulated_seconds",
        "cohort",
        "dropped",
        "bytes_up",
        "bytes_down",
    ]
    + [f"{quantity}_{unit}" for quantity in ("epsilon", "clip_norm") for unit in ("example", "client")]
)
MOST_POINTS = 300
UNIT_NAMES = {"example": "one record", "client": "one client"}
UNIT_LOOK = {"example": (BLUE, "o"), "client": (VERMILLION, "s")}


def series(rounds: Sequence[Json], key: str) -> Points:
    """The finite values of `key`, with their rounds."""
    found = [(int(row.get("round", index)), plain.finite(row.get(key))) for index, row in enumerate(rounds, 1)]
    return [(round_number, value) for round_number, value in found if value is not None]


def thin(points: Points) -> Points:
    """At most about `MOST_POINTS` points, evenly spaced, the first and the last among them: the page stays small."""
    step = -(-len(points) // MOST_POINTS)
    return points if step <= 1 else sorted({*points[::step], points[-1]})


def metric_panels(rounds: Sequence[Json], scored: str = "test records") -> list[Panel]:
    """One figure for every measured quantity of the rounds, accuracy and loss first; shares are of what is `scored`."""
    keys = dict.fromkeys(["accuracy", "loss", *(key for row in rounds for key in row)])
    return [
        _metric(index, key, points, scored)
        for index, key in enumerate(keys)
        if key not in NOT_METRICS and (points := series(rounds, key))
    ]


def _metric(index: int, name: str, points: Points, scored: str) -> Panel:
    share, (base, ending) = is_share(name), parted(name)
    factor = 100 if share else 1
    unit = f"% of {scored}" if share else METRIC_UNITS.get(base, "in the metric's own unit")
    label = f"{metric_title(base)} ({unit})"
    where = "" if ending == "_unseen" else " on the test records"
    caption = f"{metric_title(name)}{where}: {_from_to(name, points)}."

    def paint(_: "Figure", axes: "Axes") -> None:
        line(axes, [(at, factor * value) for at, value in points], BLUE, "o")
        axes.set_ylabel(label)
        if share:
            axes.set_ylim(0, 102)

    return draw(f"metric-{index}", f"{metric_title(name)} over the rounds", caption, paint)


def _from_to(name: str, points: Points) -> str:
    (first, start), (last, end) = points[0], points[-1]
    if len(points) == 1:
        return f"{metric_text(name, start)} after round {first}, the only one evaluated"
    return f"from {metric_text(name, start)} after round {first} to {metric_text(name, end)} after round {last}"


def epsilon_panel(rounds: Sequence[Json], privacy: Sequence[Entry]) -> Panel | None:
    """Epsilon spent so far, one line per protected unit; budget or target as a dashed line."""
    spent = {unit: points for unit in UNIT_LOOK if (points := series(rounds, f"epsilon_{unit}"))}
    if not spent:
        return None
    limits = {str(entry.get("unit")): _limits(entry) for entry in privacy if entry.get("unit") in spent}
    ends = [f"{plain.epsilon(points[-1][1])} for {UNIT_NAMES[unit]}" for unit, points in spent.items()]
    dashed = " Dashed or dotted: the limits set beforehand." if any(limits.values()) else ""
    caption = f"Privacy spent up to each round; it only ever grows. At the end ε is {plain.listing(ends)}.{dashed}"

    def paint(figure: "Figure", axes: "Axes") -> None:
        for unit, points in spent.items():
            colour, marker = UNIT_LOOK[unit]
            line(axes, points, colour, marker, f"spent, {UNIT_NAMES[unit]}")
            for name, limit in limits.get(unit, {}).items():
                dash = "--" if name == "target" else ":"
                axes.axhline(limit, color=colour, linestyle=dash, linewidth=1.3, label=f"{name}, {UNIT_NAMES[unit]}")
        axes.set_ylabel("ε spent so far (no unit)")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)

    return draw("epsilon", "Privacy spent over the rounds", caption, paint, 3.0)


def _limits(entry: Entry) -> dict[str, float]:
    """The finite limits of an entry by name; one name where target and budget are the same."""
    target, budget = plain.finite(entry.get("target_epsilon")), plain.finite(entry.get("budget"))
    named = {"target": target, "budget": budget if budget != target else None}
    return {name: limit for name, limit in named.items() if limit is not None}


def bytes_panel(rounds: Sequence[Json]) -> Panel | None:
    """What was sent so far, up to the server and down to the clients."""
    up, down = (_cumulative(rounds, key) for key in ("bytes_up", "bytes_down"))
    largest = max((value for _, value in up + down), default=0.0)
    if largest <= 0:
        return None
    divisor, unit = plain.byte_scale(largest)
    caption = f"Data sent since the start: {_total(up)} from the clients to the server, {_total(down)} back."

    def paint(figure: "Figure", axes: "Axes") -> None:
        for points, colour, width, name in (
            (down, SKY, 5.0, "server to clients"),
            (up, BLUE, 1.8, "clients to server"),
        ):
            if points:
                line(axes, [(at, value / divisor) for at, value in points], colour, "o", name, width)
        axes.set_ylabel(f"Sent so far ({unit})")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)

    return draw("bytes", "Data sent", caption, paint)


def _cumulative(rounds: Sequence[Json], key: str) -> Points:
    points = series(rounds, key)
    return list(zip((at for at, _ in points), accumulate(value for _, value in points), strict=True))


def _total(points: Points) -> str:
    return plain.size(points[-1][1]) if points else "nothing"


def seconds_panel(rounds: Sequence[Json]) -> Panel | None:
    """How long each round took, and the median."""
    points = series(rounds, "seconds")
    if not points:
        return None
    middle = median(value for _, value in points)
    factor, unit = (1000.0, "ms") if middle < 1 else (1.0, "s")
    thinned = "" if len(points) <= MOST_POINTS else f" {len(thin(points))} of {len(points):,} rounds are drawn."
    caption = f"Wall-clock time of each round; half of them took no longer than {plain.duration(middle)}.{thinned}"

    def paint(figure: "Figure", axes: "Axes") -> None:
        line(axes, [(at, factor * value) for at, value in points], ORANGE, "o", "round")
        axes.axhline(factor * middle, color=MUTED, linestyle="--", linewidth=1.3, label="median")
        axes.set_ylabel(f"Time for a round ({unit})")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left", ncols=2)

    return draw("seconds", "Time per round", caption, paint)


def line(axes: "Axes", points: Points, colour: str, marker: str, name: str = "", width: float = 1.8) -> None:
    """Points over rounds: whole rounds on the axis, and dots where they are few enough to be told apart."""
    from matplotlib.ticker import MaxNLocator

    drawn = thin(points)
    dots = marker if len(drawn) <= 40 else ""
    axes.plot(*zip(*drawn, strict=True), color=colour, marker=dots, markersize=3.5, linewidth=width, label=name)
    axes.set_xlabel("Round (number)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    if len(points) == 1:
        axes.set_xlim(points[0][0] - 1, points[0][0] + 1)
