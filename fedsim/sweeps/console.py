"""What a person sees of a sweep at the terminal: progress with the time left, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import Progress, TextColumn

from fedsim.console import progress_line
from fedsim.sweeps.objectives import FINAL, value_of
from fedsim.sweeps.result import SweepResult
from fedsim.sweeps.runner import Watcher
from fedsim.sweeps.trials import Task, Trial

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

    def on_kept(self, rows: Iterable[Json]) -> None:
        """These runs ended before this process began."""
        for row in rows:
            self._count(row)
        self._show()

    def on_round(self, task: Task, share: float) -> None:
        """A run is through so much of its rounds."""
        self._running[task.name] = share
        self._show()

    def on_row(self, row: Json) -> None:
        """A run ended."""
        self._running.pop(str(row["run"]).removeprefix("runs/"), None)
        self._count(row)
        last = value_of(row, row["main_metric"]) if row["main_metric"] else None
        self._show(f"trial {row['trial']}, seed {row['seed']}: {row['status'] if last is None else f'{last:.4f}'}")

    def _count(self, row: Json) -> None:
        self._ended += 1
        self._failed += row["status"] == "failed"

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
    print(sweep_text(result))


def sweep_text(result: SweepResult) -> str:
    """What is printed of a sweep, which is also how it shows itself."""
    summary = result.summary
    counts = ", ".join(f"{number} {status}" for status, number in summary["counts"].items())
    lines = [f"{summary['name']}: {counts} ({_intervals(len(summary['seeds']))})"]
    for setting in summary["settings"][:MOST_ROWS]:
        mark = "*" if setting["trial"] in summary["best"] else " "
        notes = "".join(f" [{note}]" for note in _remarks(setting, summary["baselines"]["trivial"]))
        lines.append(f"{mark} {setting['trial']:>4}  {_measured(setting)}{notes}  {_values(setting['values'])}")
    if len(summary["settings"]) > MOST_ROWS:
        lines.append(f"  ... and {len(summary['settings']) - MOST_ROWS} more, in table.json")
    lines += [*_best(summary), *_looking(summary)]
    name = "frontier.html" if (result.directory / "frontier.html").exists() else "table.json"
    return "\n".join([*lines, f"{'report' if name.endswith('html') else 'table'}: {result.directory / name}"])


def _intervals(seeds: int) -> str:
    if seeds == 1:
        return "one seed: no intervals"
    few = "; with 2 seeds it means little, use 5" if seeds == 2 else ""
    return f"mean and 95 % t interval over {seeds} seeds{few}"


def _best(summary: Json) -> list[str]:
    """What the star means."""
    names = " and ".join(summary["objectives"])
    if not summary["best"]:
        return [f"no setting measured {names} with every seed: none is the best"]
    return [f"* the best {names}" if len(summary["objectives"]) == 1 else f"* no other setting is better in {names}"]


def _looking(summary: Json) -> Iterator[str]:
    """What all runs together spend, for each unit: whoever chooses among them has looked at all."""
    for unit, cost in summary.get("cost_of_looking", {}).items():
        if "error" in cost:
            yield f"privacy, {unit} level, all runs together: {cost['error']}"
            continue
        left_out = cost["runs_without_a_guarantee"]
        public = "; selection is declared public" if summary["selection"] == "public" else ""
        yield (
            f"privacy, {unit} level: one run spends at most epsilon {_short(cost['one_run'])}, all together "
            f"{_short(cost['everything'])} (delta {cost['delta']:g}"
            f"{f'; {left_out} runs without a guarantee left out' if left_out else ''}{public})"
        )


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def failure_lines(result: SweepResult) -> list[str]:
    """How many runs failed, why the first did, and how to go on; nothing where none did."""
    failed = [row for row in result.rows if row["status"] == "failed"]
    if not failed:
        return []
    first = failed[0]
    return [
        f"{len(failed)} of {len(result.rows)} runs failed; the first, {Trial(first['trial'], first['values']).label()} "
        f"with seed {first['seed']}: {first['error']}",
        f"Once its cause is mended: fedsim sweep {result.directory} --resume --retry-failed",
    ]


def _values(values: Json) -> str:
    return ", ".join(f"{key} = {'inf' if value == 'inf' else json.dumps(value)}" for key, value in values.items())


def _remarks(setting: Json, trivial: Json | None) -> Iterator[str]:
    """How runs ended that did not end by themselves, and whether nothing was learnt, as where training diverges."""
    others = {end: number for end, number in setting["status"].items() if end not in FINAL}
    if others:
        yield ", ".join(f"{number} {end}" for end, number in others.items())
    score = setting["objectives"].get(trivial["metric"]) if trivial else None
    if trivial and score and score["mean"] <= trivial["value"]:
        yield "no better than without learning"


def _measured(setting: Json) -> str:
    runs = sum(setting["status"].values())
    return ", ".join(
        f"{name} {_interval(name, value)}{_of(value, runs)}" for name, value in setting["objectives"].items()
    )


def _of(value: Json | None, runs: int) -> str:
    """Of how many runs a mean is, where that is not all of them."""
    return "" if value is None or value["n"] == runs else f" ({value['n']} of {runs} runs)"


def _interval(name: str, value: Json | None) -> str:
    """A mean with half of its interval; an epsilon that all seeds spend alike is no estimate."""
    if value is None:
        return "not measured"
    mean = value["mean"]
    if value["low"] is None:
        return f"{mean:.4f}" if isinstance(mean, float) else str(mean)
    half = f"{value['high'] - mean:.4f}"
    return f"{mean:.4f}" + ("" if name.startswith("epsilon") and not float(half) else f" ± {half}")
