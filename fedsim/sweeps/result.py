"""What a sweep returns: ``fedsim.SweepResult``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.errors import BadInput
from fedsim.frames import frame, html_lines, swept_row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Json = dict[str, Any]


@dataclass(frozen=True, repr=False)
class SweepResult:
    """A finished sweep: its directory, its ``sweep.json`` as a dict, and a line for every run."""

    directory: Path
    summary: Json
    rows: list[Json]

    @property
    def exit_code(self) -> int:
        """What ``fedsim sweep`` exits with: 1 where a run failed, as ``make -k`` and test runners do."""
        return int(any(row["status"] == "failed" for row in self.rows))

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a line for each run: values, metrics, epsilons, costs; raises ``BadInput``."""
        return frame([swept_row(row) for row in self.rows])

    def plot(self) -> Figure:
        """The frontier as a ``matplotlib.figure.Figure``; raises ``BadInput`` where no run measured anything.

        The metric against epsilon of each unit; where no setting is private, against whatever else varies.
        """
        from fedsim.report.canvas import figure_of
        from fedsim.report.frontier.page import frontier_panels

        panels = frontier_panels(self.directory)
        if not panels:
            raise BadInput(f"{self.directory}: no run measured anything, so there is nothing to draw.")
        return figure_of(panels)

    def __repr__(self) -> str:
        from fedsim.sweeps.console import sweep_text

        return sweep_text(self)

    def _repr_html_(self) -> str:
        return html_lines(repr(self))
