"""The search space of a sweep: dotted keys of the scenario, each with choices or a range."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.errors import BadInput

RANGE_KEYS = {"low", "high", "log", "step"}
MOST_POINTS = 100_000


@dataclass(frozen=True)
class Choices:
    """A list of values, each as likely as the others."""

    options: tuple[Any, ...]

    def points(self) -> tuple[Any, ...]:
        """Every value."""
        return self.options

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the way through the list."""
        return self.options[int(share * len(self.options))]


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included: evenly spread, or with ``log`` over magnitudes.

    Whole ones where the setting takes nothing else. With ``step`` only low, low + step and so on, which a grid needs.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(bound, int) for bound in (self.low, self.high, self.step or 0))

    def of(self, kind: str | None) -> Range:
        """The same range of a setting that is an "integer" or a "number"; of any other as it is."""
        if kind == "number":
            step = None if self.step is None else float(self.step)
            return Range(float(self.low), float(self.high), self.log, step)
        if kind == "integer" and all(float(each).is_integer() for each in (self.low, self.high, self.step or 0)):
            step = None if self.step is None else int(self.step)
            return Range(int(self.low), int(self.high), self.log, step)
        return self

    @property
    def spacing(self) -> float | None:
        """The distance of neighbouring values, if there is one."""
        return 1 if self.step is None and self.whole and not self.log else self.step

    def points(self) -> tuple[float, ...]:
        """Every value of a range with steps."""
        if self.spacing is None:
            raise ValueError("a range without steps has no number of values")
        count = int((self.high - self.low) / self.spacing + 1e-9) + 1
        values = (self.low + number * self.spacing for number in range(count))
        return tuple(value if self.whole else _short(value) for value in values)

    def at(self, share: float) -> float:
        """The value at a share in [0, 1) of the range."""
        if self.spacing is not None:
            points = self.points()
            return points[int(share * len(points))]
        if not self.log:
            return self.low + share * (self.high - self.low)
        slack = 0.5 if self.whole else 0.0
        low, high = math.log(self.low - slack), math.log(self.high + slack)
        value = min(max(math.exp(low + share * (high - low)), self.low), self.high)
        return round(value) if self.whole else value


Axis = Choices | Range
Space = Mapping[str, Axis]


def _short(value: float) -> float:
    """Rounded, so that 0.1 + 2 * 0.1 reads 0.3."""
    return float(f"{value:.12g}")


def read_space(raw: Mapping[str, Any]) -> tuple[dict[str, Axis], list[str]]:
    """The axes by dotted key, and a line for every problem; tables nest as they do in a scenario."""
    axes: dict[str, Axis] = {}
    problems: list[str] = []
    for key, value in _leaves(raw):
        axis = _axis(value)
        if isinstance(axis, str):
            problems.append(f"space.{key}: {axis}")
        else:
            axes[key] = axis
    problems += [] if axes or problems else ["space: there is nothing to vary; name at least one dotted key"]
    return axes, problems + _overlaps(axes)


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        nested = isinstance(value, dict) and not value.keys() & RANGE_KEYS
        yield from _leaves(value, f"{prefix}{key}.") if nested else [(prefix + key, value)]


def _axis(value: Any) -> Axis | str:
    if isinstance(value, list):
        return _choices(value)
    if not isinstance(value, dict):
        return f"must be a list of choices or a table {{ low, high, log, step }}, got {value!r}"
    if unknown := sorted(value.keys() - RANGE_KEYS):
        return f"unknown key {unknown[0]}; a range has low, high, log and step"
    return _range(value)


def _choices(value: list[Any]) -> Axis | str:
    if not value:
        return "the list of choices is empty"
    twice = [each for number, each in enumerate(value) if each in value[:number]]
    return f"{twice[0]!r} is there twice" if twice else Choices(tuple(value))


def _range(value: dict[str, Any]) -> Axis | str:
    log, step = value.get("log", False), value.get("step")
    for name in ("low", "high", *(["step"] if step is not None else [])):
        number = value.get(name)
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            return f"{name} must be a finite number, got {number!r}"
    if not isinstance(log, bool):
        return f"log must be true or false, got {log!r}"
    low, high = value["low"], value["high"]
    if not low < high:
        return f"low = {low} must be below high = {high}"
    if log and (low <= 0 or step is not None):
        return "with log, low must be above 0 and there are no steps"
    if step is not None and not 0 < step <= high - low:
        return f"step = {step} must be above 0 and at most high - low"
    return Range(low, high, log, step)


def _overlaps(axes: Mapping[str, Axis]) -> list[str]:
    """A key inside the table that another one sets would silently change it."""
    pairs = itertools.permutations(axes, 2)
    inside = [(inner, outer) for outer, inner in pairs if inner.startswith(outer + ".")]
    return [f"space.{inner}: lies inside {outer}, which varies too" for inner, outer in inside]


def combinations(space: Space) -> list[dict[str, Any]]:
    """Every combination, the last key changing fastest. Raises ``BadInput`` for ranges without steps."""
    for key, axis in space.items():
        if isinstance(axis, Range) and axis.spacing is None:
            raise BadInput(f"space.{key}: a grid needs a list of choices or a range with a step.")
    points = [axis.points() for axis in space.values()]
    if (count := math.prod(map(len, points))) > MOST_POINTS:
        raise BadInput(f'space: the grid has {count} settings, more than {MOST_POINTS}; use method = "random".')
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*points)]
