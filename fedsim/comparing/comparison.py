"""Runs side by side: ``fedsim.compare`` and what it returns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.comparing.labels import differing
from fedsim.comparing.measures import facts, paired
from fedsim.comparing.runs import Group, Run, grouped, read_runs
from fedsim.frames import frame, html_lines
from fedsim.report.statistics import CONFIDENCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNITS = ("example", "client")
NOTES = (
    f"Intervals are Student's t at {CONFIDENCE:.0%}, over seeds, which are taken for independent and normal; they say "
    "nothing of other data or other splits.",
    "Epsilon is the largest of the runs that share a row; each run's own report states its guarantee whole. What "
    "looking at several runs on the same private data spends together is not part of it.",
)
PAIRED = "Paired differences are taken at the same seeds; with many comparisons some will look large by chance."


@dataclass(frozen=True)
class Comparison:
    """Groups of runs that differ in the seed alone, and what is said of them.

    Others are compared to the first of which a run ended by itself. ``left_out`` says what is not among them, and
    ``facts`` is what ``fedsim compare --json`` prints.
    """

    groups: tuple[Group, ...]
    left_out: tuple[str, ...] = ()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Everything as plain values: groups, differing settings, paired differences, notes."""
        keys = differing([group.settings for group in self.groups])
        whole = [group for group in self.groups if group.whole.runs]
        pairs = [pair for other in whole[1:] if (pair := paired(whole[0], other)) is not None]
        notes = [*self.left_out, *_cut_short(len(self.groups) - len(whole)), *([PAIRED] if pairs else []), *NOTES]
        return {
            "confidence": CONFIDENCE,
            "groups": [facts(group) for group in self.groups],
            "differences": [{"key": key, "values": [each.settings.get(key) for each in self.groups]} for key in keys],
            "paired": pairs,
            "notes": notes,
        }

    def to_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a line for each run: settings that differ, metrics, epsilons, costs."""
        keys = differing([group.settings for group in self.groups])
        units = protected([run for group in self.groups for run in group.runs])
        return frame([run_row(group, run, keys, units) for group in self.groups for run in group.runs])

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


def compare(*runs: str | Path | Iterable[str | Path]) -> Comparison:
    """Compare finished runs by their directories, also given as a list, or all runs of a sweep by the sweep's own.

    Raises ``BadInput`` where there is none, or one is damaged.
    """
    paths = [path for each in runs for path in ([each] if isinstance(each, str | Path) else each)]
    found, left_out = read_runs(paths)
    return Comparison(tuple(grouped(found)), tuple(left_out))


def _cut_short(groups: int) -> list[str]:
    """A sentence on the groups that no difference is taken with."""
    if not groups:
        return []
    which = "1 group has no run" if groups == 1 else f"{groups} groups have no run"
    return [f"{which} that ended by itself: what such runs measured is no result, and no difference is taken with it."]


def protected(runs: Sequence[Run]) -> list[str]:
    """The units that some run gives a guarantee for; both where none gives any."""
    units = [entry.get("unit") for run in runs for entry in run.summary.get("privacy") or []]
    return [unit for unit in UNITS if unit in units] or list(UNITS)


def run_row(group: Group, run: Run, keys: Sequence[str], units: Sequence[str]) -> dict[str, Any]:
    """One run as one record; epsilon is infinite for a unit that it does not protect."""
    spent = {str(entry.get("unit")): entry.get("epsilon") for entry in run.summary.get("privacy") or []}
    return {
        "run": str(run.path),
        "group": group.title,
        "seed": run.seed,
        "status": run.status,
        **{key: run.settings.get(key) for key in keys},
        **(run.summary.get("metrics") or {}),
        **{f"epsilon_{unit}": spent.get(unit, math.inf) for unit in units},
        "rounds": run.summary.get("rounds"),
        "bytes_up": (run.summary.get("bytes") or {}).get("up"),
        "bytes_down": (run.summary.get("bytes") or {}).get("down"),
        "seconds": (run.summary.get("seconds") or {}).get("total"),
    }
