"""From a matplotlib figure to an SVG that can stand inside an HTML page: scalable, accessible, and always the same."""

import html
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
"""The colour-blind safe palette of Okabe and Ito (2008)."""
INK, MUTED, GRID = "#1c1f23", "#5b6169", "#dfe3e7"

WIDTH_INCHES = 4.4
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedsim",
    "text.parse_math": False,
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
}


Paint = Callable[["Figure", "Axes"], None]


@dataclass(frozen=True)
class Panel:
    """A figure of the report: its heading, its caption in words, and the drawing, also as what draws it."""

    title: str
    caption: str
    svg: str
    paint: Paint
    height_inches: float


def draw(key: str, title: str, caption: str, paint: Paint, height_inches: float = 2.7) -> Panel:
    """The panel that `paint` draws on fresh axes; `key` (letters, digits, hyphens) makes its ids unique in the page."""
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(WIDTH_INCHES, height_inches))
        paint(figure, figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    svg = embeddable(stream.getvalue(), key, f"{title}. {caption}")
    return Panel(title, caption, svg, paint, height_inches)


def picture(panels: Sequence[Panel]) -> bytes:
    """The panels one below the other as one PNG picture on white."""
    with styled():
        stream = io.BytesIO()
        figure_of(panels).savefig(stream, format="png", dpi=200, facecolor="white")
    return stream.getvalue()


def figure_of(panels: Sequence[Panel]) -> "Figure":
    """The panels one below the other as one figure on white."""
    from matplotlib.figure import Figure

    heights = [panel.height_inches for panel in panels]
    with styled():
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), facecolor="white")
        parts = figure.subfigures(len(panels), 1, squeeze=False, height_ratios=heights)
        for part, panel in zip(parts[:, 0], panels, strict=True):
            panel.paint(part, part.subplots())
    return figure


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib in the report's style; what the user's own settings say does not matter."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*missing")  # browsers bring their own fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def embeddable(svg: str, key: str, label: str) -> str:
    """The SVG document as an element: no prolog, metadata or style sheet, ids under `key`, and a spoken label."""
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->|<\?.*?\?>|<!DOCTYPE.*?>", "", svg, flags=re.S)
    body = re.sub(r'( id="|url\(#|href="#)', rf"\1{key}-", body)
    body = re.sub(r"'DejaVu Sans', ", "", body).replace("'DejaVu Sans'", "sans-serif")
    view = re.search(r'viewBox="[^"]*"', body)
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    spoken = html.escape(label)
    head = f'<svg {spaces} {view.group() if view else ""} role="img" aria-label="{spoken}"><title>{spoken}</title>'
    return re.sub(r"<svg\b[^>]*>", lambda _: head, body, count=1).strip()
