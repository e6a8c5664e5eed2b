"""Clients' own models beside the global one: who gains, who loses, and by how much."""

from itertools import pairwise
from typing import TYPE_CHECKING

from fedsim.report import plain
from fedsim.report.canvas import INK, PURPLE, Panel, draw
from fedsim.report.inputs import Json
from fedsim.report.metrics import is_share, metric_title
from fedsim.report.population_figures import edges_and_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def gains_panel(clients: Json) -> Panel | None:
    """By how much each client's own model is better than the global one on its own records."""
    found = clients.get("personal") or {}
    edges, counts = edges_and_counts(found.get("gain"))
    if not counts or sum(counts) <= 0:
        return None
    metric = str(found.get("metric"))
    factor, unit = (100, "percentage points") if is_share(metric) else (1, "in the metric's own unit")
    edges = [factor * edge for edge in edges]

    def paint(_: "Figure", axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=PURPLE, edgecolor="white", linewidth=0.8)
        axes.axvline(0, color=INK, linestyle="--", linewidth=1.3)
        axes.set_xlabel(f"Gain in {metric_title(metric)} ({unit})")
        axes.set_ylabel("Clients (number)")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.grid(visible=False, axis="x")

    return draw("personal", "What the clients' own models gain", _caption(found, metric), paint)


def _caption(found: Json, metric: str) -> str:
    total, better, worse = (plain.finite(found.get(key)) or 0 for key in ("clients", "better", "worse"))
    same = total - better - worse
    return (
        f"{metric_title(metric)} of each client's own model less that of the global model, on the records that the "
        f"client held back; right of the dashed line its own is better. For {plain.count(better)} of "
        f"{plain.plural(total, 'client')} their own model is better, for {plain.count(worse)} the global one; for "
        f"{plain.count(same)} it makes no difference."
    )
