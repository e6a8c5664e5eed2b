"""What a run returns: ``fedsim.Result``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.console import result_text
from fedsim.frames import frame, html_lines
from fedsim.report import course_figure
from fedsim.report.inputs import json_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXIT_CODES = {"completed": 0, "early_stopped": 0, "budget_exhausted": 3, "interrupted": 130}


@dataclass(frozen=True)
class Result:
    """A finished (or stopped) run: its directory and its ``summary.json`` as a dict."""

    directory: Path
    summary: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation on the test data."""
        metrics: dict[str, float] = self.summary["metrics"]
        return metrics

    @property
    def privacy(self) -> list[dict[str, Any]]:
        """One privacy statement per unit."""
        entries: list[dict[str, Any]] = self.summary["privacy"]
        return entries

    @property
    def exit_code(self) -> int:
        """What ``fedsim run`` exits with."""
        return EXIT_CODES[self.summary["status"]]

    def to_frame(self) -> Any:
        """The rounds as a ``pandas.DataFrame``, a line each; raises ``BadInput`` without pandas."""
        return frame(json_lines(self.directory / "rounds.jsonl"))

    def plot(self) -> Figure:
        """The course of the run as a ``matplotlib.figure.Figure``: metrics, epsilon and cost over the rounds."""
        return course_figure(self.directory)

    def __repr__(self) -> str:
        return result_text(self)

    def _repr_html_(self) -> str:
        return html_lines(repr(self))
