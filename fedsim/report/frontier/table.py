"""The table of settings: a row each, with the numbers to sort by."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.report import plain
from fedsim.report.frontier.axes import sent
from fedsim.report.frontier.settings import MEASURED, Setting, text
from fedsim.report.frontier.view import SYMBOLS, View, epsilon_view, score_text, survived
from fedsim.report.inputs import Json
from fedsim.report.metrics import metric_title

MISSING = "—"


@dataclass(frozen=True)
class Column:
    """A head of the table: its short name, the whole one, and whether it is a number."""

    name: str
    whole: str
    number: bool = True


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what it is sorted by (empty: last)."""

    shown: str
    key: str


@dataclass(frozen=True)
class Row:
    """A setting: whether it is in a Pareto set, its cells, and the runs it leads to: seed, link and ending."""

    number: int
    best: bool
    cells: list[Cell]
    runs: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    columns: list[Column]
    rows: list[Row]


def table(view: View) -> Table:
    """All settings, the unmeasured ones among them, in the order of trials."""
    keys = list(view.names)
    best = {point.setting.number for unit in view.units for point in epsilon_view(view, unit).front}
    columns = [Column("Setting", "number of the setting"), *(_column(view, key, view.names[key]) for key in keys)]
    columns += [Column(metric_title(view.metric), "mean over seeds, ± half of its 95 % t interval")]
    columns += [Column(SYMBOLS[unit], "largest over seeds") for unit in view.units]
    columns += [Column("Rounds", "mean over seeds"), Column("Sent", "both ways, mean over seeds")]
    columns += [Column("Time", "wall-clock, mean over seeds")] if _timed(view.settings) else []
    return Table(columns, [_row(view, each, keys, each.number in best) for each in view.settings])


def _column(view: View, key: str, name: str) -> Column:
    values = [each.values.get(key) for each in view.settings]
    return Column(name, key, all(value is None or _key(value)[:1] != "~" for value in values))


def _timed(settings: Sequence[Setting]) -> bool:
    return any(each.mean(_seconds) is not None for each in settings)


def _seconds(row: Json) -> float | None:
    return plain.finite(row.get("seconds"))


def _rounds(row: Json) -> float | None:
    return plain.finite(row.get("rounds"))


def _row(view: View, setting: Setting, keys: list[str], best: bool) -> Row:
    values = [_value(setting.values.get(key)) for key in keys]
    costs = [_epsilon(setting, unit) for unit in view.units]
    spent = [_mean(setting.mean(_rounds), plain.count), _mean(setting.mean(sent), plain.size)]
    time = [_mean(setting.mean(_seconds), plain.duration)] if _timed(view.settings) else []
    cells = [Cell(str(setting.number), str(setting.number)), *values, _score(view, setting), *costs, *spent, *time]
    return Row(setting.number, best, cells, [_run(view, row) for row in setting.rows])


def _value(value: Any) -> Cell:
    return Cell(MISSING, "") if value is None else Cell(text(value), _key(value))


def _key(value: Any) -> str:
    """A number as itself, anything else behind a mark that sorts it as text."""
    size = plain.number(value)
    if size is None:
        return "~" + text(value)
    return "Infinity" if math.isinf(size) else f"{size!r}"


def _score(view: View, setting: Setting) -> Cell:
    if setting.score is None:
        return Cell(MISSING, "")
    return Cell(score_text(view.metric, setting.score) + survived(setting), f"{setting.score.value!r}")


def _epsilon(setting: Setting, unit: str) -> Cell:
    if setting.score is None:
        return Cell(MISSING, "")
    return Cell(plain.epsilon(setting.epsilon(unit)), _key(setting.epsilon(unit)))


def _mean(value: float | None, shown: Any) -> Cell:
    return Cell(MISSING, "") if value is None else Cell(shown(value), f"{value!r}")


def _run(view: View, row: Json) -> tuple[str, str, str]:
    ending = "" if row.get("status") == "completed" else str(row.get("status")).replace("_", " ")
    note = "" if row.get("status") in MEASURED else "not counted"
    return f"seed {row['seed']}", view.links[(row["trial"], row["seed"])], ", ".join(filter(None, [ending, note]))
