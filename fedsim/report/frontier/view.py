"""A sweep as the report sees it: scored settings, baselines, the front against each cost, and what is pointed out."""

import math
from dataclasses import dataclass
from functools import cached_property

from fedsim.directions import more_is_better
from fedsim.report import plain
from fedsim.report.frontier import looking
from fedsim.report.frontier.axes import Axis
from fedsim.report.frontier.inputs import SweepRecord
from fedsim.report.frontier.pareto import Point, cheapest, knee, pareto, threshold
from fedsim.report.frontier.settings import UNITS, Setting, settings_of, text
from fedsim.report.inputs import Json
from fedsim.report.keys import short_names
from fedsim.report.metrics import is_share, metric_text
from fedsim.report.statistics import Interval

SYMBOLS = {"example": "ε per record", "client": "ε per client"}


@dataclass(frozen=True)
class Scored:
    """A setting with its score, also cut to what is possible, where a click leads and what hovering says."""

    setting: Setting
    score: Interval
    possible: Interval
    link: str
    hover: str


@dataclass(frozen=True)
class EpsilonView:
    """The settings against epsilon of a unit: the Pareto set, its knee, and the cheapest good enough one."""

    points: list[Point]
    front: list[Point]
    knee: Point | None
    cheapest: Point | None

    @property
    def rings(self) -> dict[str, Point]:
        named = {"knee": self.knee, "cheapest at 95 %": self.cheapest}
        return {name: point for name, point in named.items() if point is not None}


@dataclass(frozen=True)
class View:
    """Everything that figures, words and table share."""

    record: SweepRecord
    settings: list[Setting]

    @cached_property
    def metric(self) -> str:
        return self.record.metric

    @cached_property
    def higher(self) -> bool:
        return more_is_better(self.metric)

    @cached_property
    def links(self) -> dict[tuple[int, int], str]:
        """Each run's own report, by trial and seed."""
        return {(row["trial"], row["seed"]): self.record.link(row) for row in self.record.rows}

    @cached_property
    def units(self) -> list[str]:
        """The units that some setting gives a guarantee for."""
        return [unit for unit in UNITS if any(math.isfinite(each.setting.epsilon(unit)) for each in self.scored)]

    @cached_property
    def scored(self) -> list[Scored]:
        return [self._scored(each, each.score) for each in self.settings if each.score is not None]

    def of(self, setting: Setting) -> Scored:
        return self._by_number[setting.number]

    @cached_property
    def _by_number(self) -> dict[int, Scored]:
        return {each.setting.number: each for each in self.scored}

    @cached_property
    def names(self) -> dict[str, str]:
        """The dotted keys that the settings differ in, by their short names."""
        keys = dict.fromkeys(key for each in self.settings for key in each.values)
        varied = [key for key in keys if len({repr(each.values.get(key)) for each in self.settings}) > 1]
        return short_names(varied or list(keys))

    def label(self, values: Json) -> str:
        """A setting in words, by what differs: "target_epsilon = 2, rounds = 30"."""
        shown = [f"{name} = {text(values[key])}" for key, name in self.names.items() if key in values]
        return ", ".join(shown) or "the base scenario"

    def _scored(self, setting: Setting, score: Interval) -> Scored:
        """A setting of one run leads to its report, one of several to its row, which leads to all of theirs."""
        spent = [f"{SYMBOLS[unit]} {plain.epsilon(setting.epsilon(unit))}" for unit in UNITS]
        shown = score_text(self.metric, score) + survived(setting)
        parts = [f"setting {setting.number}: {self.label(setting.values)}", shown, *spent]
        hover = "; ".join(parts)
        row = f"row:{setting.number}"
        possible = score.within(0.0, 1.0) if is_share(self.metric) else score
        return Scored(
            setting, score, possible, (self._own(setting.rows[0]) or row) if len(setting.rows) == 1 else row, hover
        )

    def _own(self, row: Json) -> str:
        return self.links[(row["trial"], row["seed"])]

    @cached_property
    def reference(self) -> Scored | None:
        """The non-private baseline: the setting that the sweep names, else the best without any guarantee.

        The sweep names the best by the main metric of its runs.
        """
        number = (self.record.sweep.get("baselines") or {}).get("non_private")
        if isinstance(number, int) and number in self._by_number and self._is_main_metric:
            return self._by_number[number]
        sign = 1 if self.higher else -1
        return max(
            (each for each in self.scored if not each.setting.private and each.setting.whole),
            key=lambda each: (sign * each.score.value, -each.setting.number),
            default=None,
        )

    @property
    def _is_main_metric(self) -> bool:
        return all(row["main_metric"] == self.metric for row in self.record.rows if row.get("main_metric"))

    @cached_property
    def trivial(self) -> tuple[float, str] | None:
        """The value of the trivial baseline, and what it does."""
        found = (self.record.sweep.get("baselines") or {}).get("trivial") or {}
        value = plain.finite(found.get("value"))
        known = value is not None and found.get("metric") == self.metric
        return (value, str(found.get("how") or "the trivial answer")) if known and value is not None else None

    @cached_property
    def costs(self) -> dict[str, "looking.Cost | str"]:
        """What choosing costs each unit, computed once."""
        return looking.costs(self)

    @property
    def baselines(self) -> list[tuple[str, Interval]]:
        lines = [] if self.reference is None else [("no privacy", self.reference.possible)]
        if self.trivial is not None:
            lines.append(("no learning", Interval(self.trivial[0], math.nan, math.nan, 1)))
        return lines

    @cached_property
    def limit(self) -> float | None:
        """What counts as 95 % of the non-private baseline."""
        return None if self.reference is None else threshold(self.reference.score.value, self.higher)


def view_of(record: SweepRecord) -> View:
    return View(record, settings_of(record))


def epsilon_view(view: View, unit: str) -> EpsilonView:
    """What the settings come to against epsilon of a unit."""
    points = [Point(each.setting, each.setting.epsilon(unit), each.score.value) for each in view.scored]
    front = pareto(_whole(points), view.higher)
    private = [point for point in _whole(points) if math.isfinite(point.cost)]
    enough = None if view.limit is None else cheapest(private, view.limit, view.higher)
    return EpsilonView([point for point in points if point.cost > 0], front, knee(front), enough)


def cost_front(view: View, axis: Axis) -> tuple[list[Point], list[Point]]:
    """The settings against any quantity, and the Pareto set where less of it is better."""
    means = [(each, each.setting.mean(axis.quantity)) for each in view.scored]
    points = [Point(each.setting, mean, each.score.value) for each, mean in means if mean is not None]
    return points, pareto(_whole(points), view.higher) if axis.cost else []


def _whole(points: list[Point]) -> list[Point]:
    return [point for point in points if point.setting.whole]


def survived(setting: Setting) -> str:
    """How many of a setting's runs its numbers are of, where that is not all of them."""
    return "" if setting.whole else f" ({len(setting.measured)} of {len(setting.rows)} runs)"


def difference_text(metric: str, difference: float) -> str:
    """How much larger a metric is: shares in percentage points."""
    return f"{100 * difference:.1f} percentage points" if is_share(metric) else plain.quantity(difference)


def score_text(metric: str, score: Interval) -> str:
    """A score with half the width of its interval: "89.7% ± 1.2 %"."""
    value = metric_text(metric, score.value)
    half = score.half_width if is_share(metric) or not score.known else float(f"{score.half_width:.2g}")
    return f"{value} ± {metric_text(metric, half)}" if score.known else value
