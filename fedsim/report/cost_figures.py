"""The main metric against what it costs: simulated time and bytes, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from fedsim.report import plain
from fedsim.report.canvas import BLUE, Panel, draw
from fedsim.report.figures import MOST_POINTS
from fedsim.report.inputs import Json, RunRecord
from fedsim.report.metrics import is_share, metric_text, metric_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = list[tuple[float, float]]
TIME_SCALES = ((3 * 86400.0, 86400.0, "days"), (3 * 3600.0, 3600.0, "hours"), (300.0, 60.0, "minutes"), (0.0, 1.0, "s"))


@dataclass(frozen=True)
class Cost:
    """What is paid: the figure's key and title, the axis, its unit, and the total in words."""

    key: str
    title: str
    label: str
    divisor: float
    total: str


def cost_panels(record: RunRecord) -> list[Panel | None]:
    """Two figures where time was simulated; without devices rounds are all that there is."""
    name = str(record.summary.get("main_metric") or "accuracy")
    clock = [plain.finite(row.get("simulated_seconds")) for row in record.rounds]
    if not clock or None in clock:
        return []
    times = [float(value or 0.0) for value in clock]
    sent = list(accumulate(_bytes(row) for row in record.rounds))
    divisor, unit = next((scale, word) for least, scale, word in TIME_SCALES if times[-1] >= least)
    time = Cost("metric-time", "simulated time", f"Simulated time ({unit})", divisor, plain.duration(times[-1]))
    divisor, unit = plain.byte_scale(sent[-1])
    data = Cost("metric-bytes", "data sent", f"Sent in both directions ({unit})", divisor, plain.size(sent[-1]))
    return [_panel(name, _points(record.rounds, name, paid), cost) for paid, cost in ((times, time), (sent, data))]


def _bytes(row: Json) -> float:
    return (plain.finite(row.get("bytes_up")) or 0.0) + (plain.finite(row.get("bytes_down")) or 0.0)


def _points(rounds: Sequence[Json], name: str, paid: Sequence[float]) -> Points:
    """What had been paid after each round that was evaluated, and the metric then; evenly thinned."""
    found = [(cost, plain.finite(row.get(name))) for row, cost in zip(rounds, paid, strict=True)]
    points = [(cost, value) for cost, value in found if value is not None]
    step = max(1, -(-len(points) // MOST_POINTS))
    return sorted({*points[::step], points[-1]}) if points else []


def _panel(name: str, points: Points, cost: Cost) -> Panel | None:
    if not points:
        return None
    factor, unit = (100, " (%)") if is_share(name) else (1, "")
    caption = f"{metric_title(name)} against {cost.title}: {metric_text(name, points[-1][1])} at the end, {cost.total}."

    def paint(_: "Figure", axes: "Axes") -> None:
        at, values = zip(*points, strict=True)
        dots = "o" if len(points) <= 40 else ""
        shown = [value / cost.divisor for value in at], [factor * value for value in values]
        axes.plot(*shown, color=BLUE, marker=dots, markersize=3.5, linewidth=1.8)
        axes.set_xlabel(cost.label)
        axes.set_ylabel(metric_title(name) + unit)
        axes.set_xlim(left=0)

    return draw(cost.key, f"{metric_title(name)} against {cost.title}", caption, paint)
