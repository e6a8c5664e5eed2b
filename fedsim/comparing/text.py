"""A comparison as tables of text, and the cells that the page prints too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedsim.comparing.labels import setting_text
from fedsim.report import plain
from fedsim.report.metrics import is_share, metric_text, metric_title

Row = dict[str, str]
MOST_ROWS, WIDEST = 40, 60  # lines, and characters of a cell, at the terminal
UNITS = {"example": "ε, record", "client": "ε, client", "none": "ε"}


def as_text(facts: dict[str, Any]) -> str:
    """All tables for a person at a terminal."""
    parts = [
        ("runs", result_rows(facts)),
        ("what differs in the scenarios", difference_rows(facts)),
        ("paired differences", paired_rows(facts)),
        ("over clients", client_rows(facts)),
    ]
    shown = [f"{heading}:\n{_table(rows)}" for heading, rows in parts if rows]
    return "\n\n".join([*shown, "\n".join(f"note: {note}" for note in facts["notes"])])


def result_rows(facts: dict[str, Any]) -> list[Row]:
    """A line for each group: its main metric, epsilons, rounds, bytes and time."""
    units = [unit for unit in UNITS if any(unit in group["privacy"] for group in facts["groups"])]
    numbered = len(
        {Path(run).parent for group in facts["groups"] if group["trial"] is not None for run in group["runs"]}
    )
    early = any(set(group["status"]) != {"completed"} for group in facts["groups"])
    return [
        {
            "group": title(group),
            **({"setting": _setting(group)} if numbered == 1 else {}),
            "runs": _runs(group),
            **({"ended": _endings(group)} if early else {}),
            **_quality(group),
            **{UNITS[unit]: _epsilon(group, unit) for unit in units if unit != "none"},
            **({UNITS["none"]: "∞"} if units == ["none"] else {}),
            "rounds": plain.count(group["rounds"]),
            "sent up": plain.size(group["bytes_up"]),
            "time": plain.duration(group["seconds"]),
        }
        for group in facts["groups"]
    ]


def title(group: dict[str, Any]) -> str:
    """What a group is called wherever it is shown: its number and what tells it apart."""
    return f"[{group['number']}] {group['label']}"


def _setting(group: dict[str, Any]) -> str:
    return "–" if group["trial"] is None else str(group["trial"])


def _runs(group: dict[str, Any]) -> str:
    """How many runs, and how many seeds where that is less: runs of the same seed are no repetition."""
    runs, seeds = len(group["runs"]), len(group["seeds"])
    return str(runs) if runs == seeds else f"{runs} of {plain.plural(seeds, 'seed')}"


def _endings(group: dict[str, Any]) -> str:
    """How the runs ended, with how many where that differs: a mean over them is no mean over equals."""
    names = {str(name).replace("_", " "): number for name, number in group["status"].items()}
    if len(names) > 1:
        return ", ".join(f"{number} {name}" for name, number in names.items())
    return next(iter(names)) + ("" if group["whole"] else f" after {plain.plural(group['rounds'], 'round')}")


def _quality(group: dict[str, Any]) -> Row:
    name = group["main_metric"]
    if name is None:
        return {"metric": "not measured", "loss": "–"}
    loss = {"loss": spread("loss", group["metrics"].get("loss"))} if name != "loss" else {}
    return {"metric": f"{metric_title(name)} {spread(name, group['metrics'].get(name))}", **loss}


def _epsilon(group: dict[str, Any], unit: str) -> str:
    entry = group["privacy"].get(unit)
    if entry is None:
        return "∞"
    projected = "projected " if entry["projected"] else ""
    return f"{projected}{plain.epsilon(entry['epsilon'])} (δ {plain.probability(entry['delta'])}, {entry['relation']})"


def spread(name: str, found: dict[str, Any] | None) -> str:
    """A mean with half the width of its interval: 90.5% ± 1.2."""
    if found is None:
        return "–"
    if found["low"] is None:
        return metric_text(name, found["mean"])
    half = (found["high"] - found["low"]) / 2
    return (
        f"{metric_text(name, found['mean'])} ± {100 * half:.1f}"
        if is_share(name)
        else (f"{metric_text(name, found['mean'])} ± {plain.quantity(half)}")
    )


def difference_rows(facts: dict[str, Any]) -> list[Row]:
    """A line for each setting that differs, a column for each group."""
    labels = [f"[{number}]" for number in range(1, len(facts["groups"]) + 1)]
    return [
        {"setting": each["key"], **dict(zip(labels, map(setting_text, each["values"]), strict=True))}
        for each in facts["differences"]
        if len(labels) > 1
    ]


def paired_rows(facts: dict[str, Any]) -> list[Row]:
    """A line for each group that shares seeds with the first: its metric minus the first one's."""
    return [
        {
            "group": f"[{pair['other_number']}] {pair['other']}",
            "minus": f"[{pair['reference_number']}]",
            "metric": metric_title(pair["metric"]),
            "difference": signed(pair["metric"], pair["mean"]),
            "95% interval": "one seed: none"
            if pair["low"] is None
            else f"{signed(pair['metric'], pair['low'])} to {signed(pair['metric'], pair['high'])}",
            "seeds": str(pair["seeds"]),
        }
        for pair in facts["paired"]
    ]


def signed(name: str, value: float) -> str:
    """A difference: shares in percentage points."""
    return f"{100 * value:+.1f} points" if is_share(name) else f"{value:+.4g}"


def client_rows(facts: dict[str, Any]) -> list[Row]:
    """How each group's clients fare."""
    rows = []
    for group in facts["groups"]:
        found = group["clients"]
        if found is None:
            continue
        shown = {name: _value(found["metric"], found[name]) for name in ("mean", "bad_tail", "worst")}
        sizes = found["by_size"] or {}
        rows.append(
            {
                "group": title(group),
                "metric": metric_title(found["metric"]),
                "mean": shown["mean"],
                "90% do no worse than": shown["bad_tail"],
                "worst": shown["worst"],
                **{f"{third} third": _value(found["metric"], sizes.get(third)) for third in ("smallest", "middle")},
                "largest third": _value(found["metric"], sizes.get("largest")),
            }
        )
    return rows


def _value(name: str, value: float | None) -> str:
    return "–" if value is None else metric_text(name, value)


def _table(rows: Sequence[Row]) -> str:
    """Columns; of many rows the first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cut(row.get(name, "–")) for name in names] for row in rows[:MOST_ROWS])]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    more = [f"  and {len(rows) - MOST_ROWS} more (--json and --html have all)"] if len(rows) > MOST_ROWS else []
    return "\n".join([*(line.rstrip() for line in lines), *more])


def _cut(cell: str) -> str:
    return cell if len(cell) <= WIDEST else f"{cell[: WIDEST - 1]}…"
