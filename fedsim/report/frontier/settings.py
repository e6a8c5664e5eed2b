"""The settings of a sweep, and what the seeds of each came to: metric with interval, epsilon, costs."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import fmean
from typing import Any

from fedsim.report import plain
from fedsim.report.frontier.inputs import SweepRecord
from fedsim.report.inputs import Json
from fedsim.report.statistics import Interval, t_interval

UNITS = ("example", "client")
MEASURED = ("completed", "budget_exhausted", "early_stopped")  # these trained a model that counts


@dataclass(frozen=True)
class Setting:
    """One point of the search space; ``rows`` are its runs, a seed each."""

    number: int
    values: Json
    rows: tuple[Json, ...]
    metric: str

    @cached_property
    def measured(self) -> list[Json]:
        """The runs that ended with a model whose metric is known."""
        return [row for row in self.rows if row.get("status") in MEASURED and measure(row, self.metric) is not None]

    @property
    def by_seed(self) -> dict[int, float]:
        """The metric for each seed that measured it."""
        return {row["seed"]: value for row in self.measured if (value := measure(row, self.metric)) is not None}

    @property
    def whole(self) -> bool:
        """Whether every run measured the metric; the mean of those that survived flatters a setting that fails."""
        return len(self.measured) == len(self.rows)

    @cached_property
    def score(self) -> Interval | None:
        """Mean of the metric over seeds, with its t interval; None where no run measured it."""
        return self.interval(self.metric)

    def interval(self, metric: str) -> Interval | None:
        """Mean of any metric over the seeds that measured it, with its t interval."""
        found = [value for row in self.measured if (value := measure(row, metric)) is not None]
        return t_interval(found) if found else None

    def epsilon(self, unit: str) -> float:
        """The largest epsilon of the unit over seeds; infinite where a run gives no guarantee for it."""
        spent = [epsilon_of(row, unit) for row in self.measured]
        return max(spent, default=math.inf)

    def mean(self, quantity: "Quantity") -> float | None:
        """A quantity's mean over seeds; None where a run does not record it."""
        found = [quantity(row) for row in self.measured]
        known = [value for value in found if value is not None]
        return fmean(known) if known and len(known) == len(found) else None

    @property
    def private(self) -> bool:
        """Whether there is a guarantee for any unit."""
        return any(math.isfinite(self.epsilon(unit)) for unit in UNITS)


Quantity = Callable[[Json], float | None]


def settings_of(record: SweepRecord) -> list[Setting]:
    """Every setting of a sweep, in the order of trials."""
    groups = [(trial, tuple(rows)) for trial, rows in groupby(record.rows, lambda row: row["trial"])]
    return [Setting(trial, rows[0].get("values") or {}, rows, record.metric) for trial, rows in groups]


def measure(row: Json, metric: str) -> float | None:
    return plain.finite((row.get("metrics") or {}).get(metric))


def epsilon_of(row: Json, unit: str) -> float:
    """The epsilon that a run spent of a unit; infinite where it gives no guarantee."""
    spent = plain.number((row.get("epsilon") or {}).get(unit))
    return math.inf if spent is None or math.isnan(spent) else spent


def finite_epsilons(settings: Iterable[Setting], unit: str) -> list[Setting]:
    """The settings with a guarantee for a unit and a score."""
    return [each for each in settings if each.score is not None and math.isfinite(each.epsilon(unit))]


def text(value: Any) -> str:
    """A value of the search space, as it would stand in a scenario."""
    if value is None or isinstance(value, bool):
        return "—" if value is None else str(value).lower()
    if isinstance(value, float):
        return "∞" if math.isinf(value) else f"{value:.6g}"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {text(part)}" for key, part in value.items()) + " }"
    return "∞" if value == "inf" else str(value)
