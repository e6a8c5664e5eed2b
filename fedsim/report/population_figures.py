"""The figures over clients: how much they hold, of which classes, how often they took part, what privacy they spent."""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from fedsim.report import plain
from fedsim.report.canvas import BLUE, GREEN, PURPLE, Panel, draw
from fedsim.report.inputs import Json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLIENTS = 50
LONGEST_NAME = 12


def sizes_panel(clients: Json) -> Panel | None:
    """How many records the clients hold."""
    sizes = clients.get("sizes") or {}
    caption = (
        f"The smallest client holds {plain.plural(sizes.get('min'), 'record')}, the median client "
        f"{plain.count(sizes.get('median'))}, the largest {plain.count(sizes.get('max'))}."
    )
    label = "Records that a client holds (number)"
    return _histogram("sizes", ("How much the clients hold", caption, label), sizes, GREEN)


def participations_panel(clients: Json) -> Panel | None:
    """In how many rounds the clients took part."""
    caption = "In how many rounds each client took part."
    label = "Rounds that a client took part in (number)"
    participations = clients.get("participations")
    return _histogram("participations", ("How often the clients took part", caption, label), participations, PURPLE)


def epsilon_clients_panel(clients: Json) -> Panel | None:
    """What the records of each client have spent."""
    caption = "Privacy spent for one record, client by client. The statement above names the largest of these values."
    label = "ε of one record at that client (no unit)"
    texts = ("Privacy spent by client", caption, label)
    return _histogram("epsilon-clients", texts, clients.get("epsilon_example"), BLUE)


def _histogram(key: str, texts: tuple[str, str, str], bins: Any, colour: str) -> Panel | None:
    """A histogram from `{"edges", "counts"}`, or None where it would be empty; `texts` are title, caption and axis."""
    edges, counts = edges_and_counts(bins)
    if not counts or sum(counts) <= 0:
        return None

    def paint(_: "Figure", axes: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        widths = [high - low for low, high in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=colour, edgecolor="white", linewidth=0.8)
        axes.set_xlabel(texts[2])
        axes.set_ylabel("Clients (number)")
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=key != "epsilon-clients", min_n_ticks=1))
        axes.ticklabel_format(useOffset=False, style="plain")
        axes.grid(visible=False, axis="x")

    return draw(key, texts[0], texts[1], paint)


def edges_and_counts(bins: Any) -> tuple[list[float], list[float]]:
    """The edges and counts of a recorded histogram; empty where there is none, or a damaged one."""
    if not isinstance(bins, dict):
        return [], []
    edges, counts = ([plain.finite(value) for value in bins.get(key) or []] for key in ("edges", "counts"))
    if len(edges) != len(counts) + 1 or None in edges or None in counts:
        return [], []
    return _apart([edge for edge in edges if edge is not None]), [count for count in counts if count is not None]


def _apart(edges: list[float]) -> list[float]:
    """The edges, or bins of width 1 around the one value at which they all lie."""
    if edges and edges[0] == edges[-1]:
        return [edges[0] + index - (len(edges) - 1) / 2 for index in range(len(edges))]
    return edges


def labels_panel(clients: Json) -> Panel | None:
    """Which share of each client’s records belongs to which class."""
    labels = clients.get("labels") or {}
    names = [_short(name) for name in labels.get("classes") or []]
    rows = [[plain.finite(value) or 0.0 for value in row] for row in (labels.get("counts") or [])[:MOST_CLIENTS]]
    ids = [_short(client) for client in (labels.get("clients") or range(len(rows)))][: len(rows)]
    if not names or not any(map(sum, rows)) or any(len(row) != len(names) for row in rows) or len(ids) != len(rows):
        return None
    kind = "id" if all(isinstance(client, int) for client in labels.get("clients") or []) else "name"
    shares = [[100 * value / (sum(row) or 1) for value in row] for row in rows]

    def paint(figure: "Figure", axes: "Axes") -> None:
        _heatmap(figure, axes, shares)
        _name_ticks(axes, names, ids)
        axes.set_ylabel(f"Client ({kind})")

    height = 1.5 + min(0.13 * len(rows), 5) + (0.07 * max(map(len, names)) if _upright(names) else 0)
    return draw("labels", "Which classes the clients hold", _labels_caption(len(rows), clients), paint, height)


def _labels_caption(shown: int, clients: Json) -> str:
    total = plain.finite(clients.get("clients")) or shown
    part = f" {shown} of {plain.plural(total, 'client')} are shown." if shown < total else ""
    return (
        "Each row is a client, each column a class; the darker the field, the larger the share of that class among "
        f"the client’s records. Where the rows differ, the clients hold different kinds of data.{part}"
    )


def _heatmap(figure: "Figure", axes: "Axes", shares: list[list[float]]) -> None:
    """An embedded image of one pixel per field: small, and in one hue that prints and is safe for the colour-blind."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("share", ["#f3f6f8", "#7db8dc", BLUE, "#062f4a"])
    darkest = 10 * math.ceil(max(map(max, shares)) / 10)
    image = axes.imshow(shares, cmap=colours, vmin=0, vmax=darkest, aspect="auto", interpolation="none")
    bar = figure.colorbar(image, ax=axes, location="top", aspect=40)
    bar.set_label("Share of the client’s records (%)")
    bar.outline.set_visible(False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _name_ticks(axes: "Axes", names: list[str], ids: list[str]) -> None:
    """Class names below and client ids at the side, every so many where they would not fit."""
    across, down = -(-len(names) // 26), -(-len(ids) // 25)
    axes.set_xticks(range(0, len(names), across), names[::across], rotation=90 if _upright(names) else 0)
    axes.set_yticks(range(0, len(ids), down), ids[::down])
    axes.tick_params(length=0, labelsize=8)
    axes.set_xlabel("Class (name)")


def _upright(names: list[str]) -> bool:
    """Whether the class names have to stand upright in order to fit."""
    return max(map(len, names)) * min(len(names), 26) > 40


def _short(name: object) -> str:
    text = " ".join(str(name).split())
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"
