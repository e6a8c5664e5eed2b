"""What a person sees of a sweep at the terminal: progress with the time left, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress, TextColumn

from fedsim.console import progress_line
from fedsim.sweeps.objectives import value_of
from fedsim.sweeps.runner import Watcher
from fedsim.sweeps.running import SweepResult
from fedsim.sweeps.trials import Task

Json = dict[str, Any]
MOST_ROWS = 30


class Bar(Watcher):
    """Shows how many runs ended, and how far the others are."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._line = progress.add_task("", total=None, status="setting up", runs="0 runs")
        self._running: dict[str, float] = {}
        self._ended = 0
        self._failed = 0
        self._runs = 0

    def on_plan(self, runs: int) -> None:
        """So many runs are planned in all."""
        self._runs = runs
        self._show()

    def on_round(self, task: Task, share: float) -> None:
        """A run is through so much of its rounds."""
        self._running[task.name] = share
        self._show()

    def on_row(self, row: Json) -> None:
        """A run ended."""
        self._running.pop(str(row["run"]).removeprefix("runs/"), None)
        self._ended += 1
        self._failed += row["status"] == "failed"
        last = value_of(row, row["main_metric"]) if row["main_metric"] else None
        self._show(f"trial {row['trial']}, seed {row['seed']}: {row['status'] if last is None else f'{last:.4f}'}")

    def _show(self, status: str | None = None) -> None:
        failed = f", {self._failed} failed" if self._failed else ""
        fields: dict[str, Any] = {"runs": f"{self._ended}/{self._runs} runs{failed}"}
        fields |= {"status": status} if status else {}
        done = self._ended + sum(self._running.values())
        self._progress.update(self._line, total=self._runs or None, completed=done, **fields)


@contextmanager
def watch(quiet: bool) -> Iterator[Watcher]:
    """Show progress on standard error while the block runs, if that is a terminal."""
    with progress_line(quiet, TextColumn("{task.fields[runs]}")) as progress:
        yield Bar(progress) if progress else Watcher()


def print_sweep(result: SweepResult) -> None:
    """A line for each setting with means and 95 % intervals, the best of them marked, and where the report lies."""
    summary = result.summary
    counts = ", ".join(f"{number} {status}" for status, number in summary["counts"].items())
    print(f"{summary['name']}: {counts} (mean and 95 % t interval over {len(summary['seeds'])} seeds)")
    for setting in summary["settings"][:MOST_ROWS]:
        mark = "*" if setting["trial"] in summary["best"] else " "
        values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in setting["values"].items())
        print(f"{mark} {setting['trial']:>4}  {_measured(setting)}  {values}")
    if len(summary["settings"]) > MOST_ROWS:
        print(f"  ... and {len(summary['settings']) - MOST_ROWS} more, in table.json")
    name = "frontier.html" if (result.directory / "frontier.html").exists() else "table.json"
    print(f"{'report' if name.endswith('html') else 'table'}: {result.directory / name}")


def _measured(setting: Json) -> str:
    runs = sum(setting["status"].values())
    return ", ".join(f"{name} {_interval(value)}{_of(value, runs)}" for name, value in setting["objectives"].items())


def _of(value: Json | None, runs: int) -> str:
    """Of how many runs a mean is, where that is not all of them."""
    return "" if value is None or value["n"] == runs else f" ({value['n']} of {runs} runs)"


def _interval(value: Json | None) -> str:
    if value is None:
        return "not measured"
    mean = value["mean"]
    if value["low"] is None:
        return f"{mean:.4f}" if isinstance(mean, float) else str(mean)
    return f"{mean:.4f} ± {value['high'] - mean:.4f}"
