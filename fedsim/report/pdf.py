"""The report as a PDF of A4 pages, drawn by Matplotlib: the text first, then the figures, six on a page."""

import io
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fedsim.report.blocks import Block, document
from fedsim.report.canvas import Panel, styled
from fedsim.report.inputs import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_INCHES = (8.27, 11.69)
COLUMNS, LINES, POINTS = 100, 76, 8.0
LEFT, TOP, STEP = 0.075, 0.955, 0.0119  # shares of the page
PANELS = 6
SIZES = {1: 15.0, 2: 11.5, 3: 9.5, 4: 8.5}
Line = tuple[str, float, bool]  # text, size in points, bold


def pdf(record: RunRecord, panels: Sequence[Panel]) -> bytes:
    """The whole report; the same record gives the same pages."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    stream = io.BytesIO()
    about = {"CreationDate": None, "Title": f"Privacy report: {record.summary.get('scenario')}"}
    with styled(), rc_context({"pdf.fonttype": 42}), PdfPages(stream, metadata=about) as pages:
        for lines in _paged(list(_lines(record))):
            figure = Figure(figsize=PAGE_INCHES, facecolor="white")
            figure.set_layout_engine("none")
            _print(figure, lines)
            pages.savefig(figure)
        for first in range(0, len(panels), PANELS):
            pages.savefig(_gallery(panels[first : first + PANELS]))
    return stream.getvalue()


def _lines(record: RunRecord) -> Iterator[Line]:
    for block in document(record):
        yield from _of(block)
        yield "", POINTS, False


def _of(block: Block) -> Iterator[Line]:
    """A block's lines, wrapped to the page; a table of three columns or less line by line, wider ones in columns."""
    if block.kind == "heading":
        size = SIZES[block.level]
        yield from ((line, size, True) for line in textwrap.wrap(block.lines[0][0], int(COLUMNS * POINTS / size)))
    elif block.kind == "table":
        yield from _table(block.lines)
    else:
        mark = "• " if block.kind == "bullets" else ""
        for (text,) in block.lines:
            indent = " " * (len(mark) if mark else len(text) - len(text.lstrip()) + 4 * (block.kind == "code"))
            wrapped = textwrap.wrap(mark + text, COLUMNS, subsequent_indent=indent, drop_whitespace=True)
            yield from ((line, POINTS, False) for line in wrapped or [""])


def _table(rows: list[list[str]]) -> Iterator[Line]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * len(widths) <= COLUMNS:
        for number, row in enumerate(rows):
            cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield cells.rstrip(), POINTS, number == 0
        return
    head, *others = rows
    for row in others:
        rest = [f"{name}: {cell}" if len(head) > 3 else cell for name, cell in zip(head[1:], row[1:], strict=True)]
        text = f"{row[0]}: {'; '.join(cell for cell in rest if cell)}"
        yield from ((line, POINTS, False) for line in textwrap.wrap(text, COLUMNS, subsequent_indent="    "))


def _paged(lines: list[Line]) -> Iterator[list[Line]]:
    """So many lines on a page, large ones counted as what they take."""
    page: list[Line] = []
    room = float(LINES)
    for line in lines:
        needed = max(1.0, line[1] / POINTS)
        if needed > room or (line[2] and room < 4):  # no heading at the foot of a page
            yield page
            page, room = [], float(LINES)
        page.append(line)
        room -= needed
    if page:
        yield page


def _print(figure: "Figure", lines: list[Line]) -> None:
    at = TOP
    for text, size, bold in lines:
        at -= STEP * max(1.0, size / POINTS)
        weight = "bold" if bold else "normal"
        figure.text(LEFT, at, text, fontsize=size, family="DejaVu Sans Mono", weight=weight, va="baseline")


def _gallery(panels: Sequence[Panel]) -> "Figure":
    """Figures in two columns, each with its title and caption below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=PAGE_INCHES, facecolor="white")
    across, down = [0.05, 0.45, 0.45, 0.05], [0.04, 0.3, 0.3, 0.3, 0.06]  # the outermost are the margins
    parts: Any = figure.subfigures(5, 4, width_ratios=across, height_ratios=down, wspace=0.04, hspace=0.04)
    for panel, part in zip(panels, parts[1:4, 1:3].ravel(), strict=False):
        panel.paint(part, part.subplots())
        part.supxlabel(textwrap.fill(f"{panel.title}. {panel.caption}", 62), fontsize=6.5)
    return figure
