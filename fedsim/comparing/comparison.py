"""Runs side by side: ``fedsim.compare`` and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.comparing.measures import facts, paired
from fedsim.comparing.runs import Group, differing, grouped, read_runs
from fedsim.frames import frame, html_lines
from fedsim.report.statistics import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTES = (
    f"Intervals are Student's t at {CONFIDENCE:.0%}, over seeds, which are taken for independent and normal; they say "
    "nothing of other data or other splits.",
    "Paired differences are taken at the same seeds; with many comparisons some will look large by chance.",
    "Epsilon is the largest of the runs that share a row; each run's own report states its guarantee whole. What "
    "looking at several runs on the same private data spends together is not part of it.",
)


@dataclass(frozen=True)
class Comparison:
    """Groups of runs that differ in the seed alone, and what is said of them; the first is what others are compared to.

    ``facts`` is what ``fedsim compare --json`` prints.
    """

    groups: tuple[Group, ...]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything as plain values: groups, differing settings, paired differences, notes."""
        keys = differing([group.settings for group in self.groups])
        pairs = [paired(self.groups[0], other) for other in self.groups[1:]]
        return {
            "confidence": CONFIDENCE,
            "groups": [facts(group) for group in self.groups],
            "differences": [{"key": key, "values": [each.settings.get(key) for each in self.groups]} for key in keys],
            "paired": [pair for pair in pairs if pair is not None],
            "notes": list(NOTES),
        }

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a line for each run: settings that differ, metrics, epsilons, costs."""
        keys = differing([group.settings for group in self.groups])
        return frame([run_row(group, number, keys) for group in self.groups for number in range(len(group.runs))])

    def plot(self) -> Figure:
        """The overlaid curves as a ``matplotlib.figure.Figure``."""
        from fedsim.report.canvas import figure_of
        from fedsim.report.comparison_figures import panels

        return figure_of(panels(self))

    def write_html(self, file: str | Path) -> Path:
        """Write the comparison as one self-contained page; raises ``BadInput`` where that cannot be."""
        from fedsim.report.comparison_page import write_comparison

        return write_comparison(self, Path(file))

    def __repr__(self) -> str:
        from fedsim.comparing.text import as_text

        return as_text(self.facts)

    def _repr_html_(self) -> str:
        return html_lines(repr(self))


def compare(*runs: str | Path) -> Comparison:
    """Compare finished runs by their directories (or all runs of a sweep by its own); raises ``BadInput``."""
    return Comparison(tuple(grouped(read_runs(runs))))


def run_row(group: Group, number: int, keys: Sequence[str]) -> dict[str, Any]:
    """One run as one record."""
    run = group.runs[number]
    spent = {f"epsilon_{entry['unit']}": entry["epsilon"] for entry in run.summary.get("privacy") or []}
    return {
        "run": str(run.path),
        "group": group.label,
        "seed": run.seed,
        "status": run.summary.get("status"),
        **{key: run.settings.get(key) for key in keys},
        **(run.summary.get("metrics") or {}),
        **spent,
        "rounds": run.summary.get("rounds"),
        "bytes_up": (run.summary.get("bytes") or {}).get("up"),
        "bytes_down": (run.summary.get("bytes") or {}).get("down"),
        "seconds": (run.summary.get("seconds") or {}).get("total"),
    }
