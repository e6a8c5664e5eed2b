"""What a sweep judges settings by: metrics of the task, epsilon, bytes and simulated seconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, Literal

from fedsim.directions import more_is_better

Json = dict[str, Any]
UNITS = ("example", "client")
COSTS = ("epsilon", "epsilon_example", "epsilon_client", "bytes", "bytes_up", "bytes_down", "simulated_seconds")
FINAL = ("completed", "budget_exhausted", "early_stopped")


def directions(objectives: Iterable[str]) -> list[Literal["maximize", "minimize"]]:
    """In Optuna's words."""
    return ["maximize" if more_is_better(objective) else "minimize" for objective in objectives]


def value_of(row: Json, objective: str) -> float | None:
    """An objective's value in a line of trials.jsonl; None where it was not measured."""
    if objective == "epsilon":
        values = [value for unit in UNITS if (value := _number(row["epsilon"].get(unit))) is not None]
        return max(values, default=math.inf)
    if objective.startswith("epsilon_"):
        value = _number(row["epsilon"].get(objective.removeprefix("epsilon_")))
        return math.inf if value is None else value
    if objective == "bytes":
        return float(row["bytes_up"] + row["bytes_down"])
    return _number(row.get(objective) if objective in COSTS else row["metrics"].get(objective))


def _number(value: Any) -> float | None:
    """A JSON value as a number: "inf" is one, null and NaN are none."""
    return None if value is None or math.isnan(float(value)) else float(value)


def means(rows: Sequence[Json], objectives: Sequence[str]) -> tuple[float, ...] | None:
    """Each objective's mean over the seeds of a setting; None where a seed failed or did not measure one.

    The mean of those seeds that survived would make a setting that diverges now and then look good.
    """
    if not rows or any(row["status"] == "failed" for row in rows):
        return None
    columns = [[value for row in rows if (value := value_of(row, name)) is not None] for name in objectives]
    return tuple(map(fmean, columns)) if all(len(column) == len(rows) for column in columns) else None


def merit(value: float | None, objective: str) -> float:
    """A value to rank by: larger is better, and what was not measured comes last."""
    if value is None or math.isnan(value):
        return -math.inf
    return value if more_is_better(objective) else -value
