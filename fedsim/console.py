"""What a person sees at the terminal: progress while a run goes on, its result, tables of names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from fedsim.report.plain import duration

if TYPE_CHECKING:
    from fedsim.federation import Federation
    from fedsim.result import Result


class Display:
    """Receives a run's events; without a progress bar it shows nothing."""

    def __init__(self, progress: Progress | None, rounds: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=rounds, status="setting up") if progress else None
        self._last: dict[str, Any] = {}
        self._names: tuple[str, ...] = ()

    def on_ready(self, federation: Federation) -> None:
        """The federation is set up."""
        from fedsim.evaluation import PERSONAL, compared  # not before it is needed: the command line starts faster

        loss, *others = federation.task.objective.metric_names
        personal = (f"{compared(federation.task.objective)}{PERSONAL}_mean",) if federation.personalises else ()
        self._names = (*others, loss, *personal)
        self._update(0, f"{len(federation.population)} clients, {federation.trainer_name} on {federation.device.type}")

    def on_round(self, row: dict[str, Any]) -> None:
        """A round is recorded."""
        self._last.update({key: value for key, value in row.items() if value is not None})
        parts = [f"{name} {_digits(self._last[name])}" for name in self._names if name in self._last]
        for unit in ("example", "client"):
            if row.get(f"epsilon_{unit}") is not None:
                parts.append(f"epsilon ({unit}) {row[f'epsilon_{unit}']:.3f}")
        if "simulated_seconds" in row:
            parts.append(f"clock {duration(row['simulated_seconds'])}")
        self._update(row["round"], "  ".join(parts))

    def _update(self, completed: int, status: str) -> None:
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=completed, status=status)


@contextmanager
def progress_line(quiet: bool, *counts: ProgressColumn) -> Iterator[Progress | None]:
    """A line on standard error that begins with ``counts``; None where it is no terminal, or quiet is asked for."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        yield None
        return
    # Where it is narrow, the status is what is cut, not the counts and times.
    status = TextColumn("{task.fields[status]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    bar = BarColumn(bar_width=24 if console.width >= 120 else 8)
    times = (TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*counts, bar, status, *times, console=console, transient=True, expand=True) as progress:
        yield progress


@contextmanager
def watch(rounds: int, quiet: bool) -> Iterator[Display]:
    """Show progress on standard error while the block runs, if that is a terminal."""
    with progress_line(quiet, TextColumn("round"), MofNCompleteColumn()) as progress:
        yield Display(progress, rounds)


def print_result(result: Result) -> None:
    """The run in a few lines."""
    print(result_text(result))


def result_text(result: Result) -> str:
    """The run in a few lines: metrics, what privacy was spent, where the report lies."""
    return "\n".join(_result_lines(result))


def _result_lines(result: Result) -> Iterator[str]:
    summary = result.summary
    spread = {
        name: f" ± {_digits(value)}" for name, value in summary.get("metrics_std", {}).items() if value is not None
    }
    metrics = {name: _metric(name, value) + spread.get(name, "") for name, value in summary["metrics"].items()}
    personal = summary.get("personal") or {}
    unused = personal.get("global_is")
    leading = [name for name in (personal.get("metric"),) if name in metrics]
    leading += [] if unused and leading else [summary["main_metric"], "loss"]
    first = ", ".join(metrics.pop(name) for name in dict.fromkeys(leading))
    yield f"{summary['scenario']}: {summary['rounds']} of {summary['rounds_planned']} rounds, {first}"
    if metrics:
        yield f"also: {', '.join(metrics.values())}"
    if unused:
        yield f"note: the global model is {unused}; nobody uses it"
    for entry in summary["privacy"]:
        if entry["unit"] == "none":
            yield "privacy: none (epsilon = infinity)"
            continue
        yield (
            f"privacy, {entry['unit']} level: epsilon {entry['epsilon']:.4g} at delta {entry['delta']:g} "
            f"({entry['relation']}; {'largest over clients; ' if entry['unit'] == 'example' else ''}"
            f"randomness {entry['randomness']})"
        )
        for limit in entry.get("fold_limits", []):
            spent = f"{entry['epsilon']:.4g}"
            yield f"note: the limit of {limit:g} holds for each fold by itself; together they spent {spent}"
    found = summary.get("deliveries") or {}
    if found.get("dropped"):
        yield f"dropped out: {found['dropped']:,} of {found['asked']:,} that were asked"
    if found.get("rejected"):
        yield f"rejected: {found['rejected']:,} replies that cannot be right; their clients count as dropped out"
    yield f"time: {summary['seconds']['total']:.1f} s, of which {summary['seconds']['setup']:.1f} s set-up"
    if "simulated" in summary["seconds"]:
        yield f"simulated time: {duration(summary['seconds']['simulated'])}"
    yield f"report: {result.directory / 'report.html'}"


def _metric(name: str, value: Any) -> str:
    """A metric as it stands in the summary, where infinity is a string and what is not defined is None."""
    shown = "not defined" if value is None else value if isinstance(value, str) else _digits(value)
    return f"{name} {shown}"


def _digits(value: float) -> str:
    """Four decimals, or six digits of what is large: a loss that blew up has more decimals than anyone can read."""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.6g}"


def as_lines(values: dict[str, Any], indent: str = "") -> str:
    """Nested values as readable lines; records that share their names become a table, single values one line."""
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", as_lines(value, indent + "  ")]
        elif isinstance(value, list) and _is_table(value):
            lines += [f"{indent}{key}:", _as_table(value, indent + "  ")]
        elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
            for item in value:
                lines += [f"{indent}{key}:", as_lines(item, indent + "  ")]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: {', '.join(map(_shown, value))}")
        else:
            lines.append(f"{indent}{key}: {_shown(value)}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_table(rows: list[Any]) -> bool:
    """Whether these are two or more records of single values under the same names."""
    records = len(rows) > 1 and all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows)
    return records and not any(isinstance(value, dict | list) for row in rows for value in row.values())


def _as_table(rows: list[dict[str, Any]], indent: str) -> str:
    """Columns, right-aligned."""
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        indent + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
    )
