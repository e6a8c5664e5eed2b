"""What a setting's metric is drawn against: noise, clip norm, cohort, rounds, bytes and time."""

from dataclasses import dataclass
from typing import Any

from fedsim.report import plain
from fedsim.report.frontier.settings import UNITS, Quantity, Setting
from fedsim.report.inputs import Json

OF_UNIT = {"example": "of records", "client": "of clients"}
LENGTH = {"example": "length of a gradient", "client": "length of an update"}
LEAST, MOST = " (the least of any client)", " (the largest of a run)"
LOAD = " (which hangs on what else the machine did)"


@dataclass(frozen=True)
class Axis:
    """A quantity with its name and unit; of a ``cost`` less is better, so that a Pareto set means something.

    ``note`` says what of it is shown, where a run has several.
    """

    key: str
    title: str
    unit: str
    quantity: Quantity
    cost: bool = False
    note: str = ""


def axes_of(settings: list[Setting]) -> list[Axis]:
    """The quantities that vary over the settings."""
    return [axis for axis in _all() if _varies(settings, axis)]


def _all() -> list[Axis]:
    noises = [
        Axis(f"noise-{unit}", f"Noise multiplier {OF_UNIT[unit]}", "no unit", _noise(unit), note=LEAST)
        for unit in UNITS
    ]
    clips = [Axis(f"clip-{unit}", f"Clip norm {OF_UNIT[unit]}", LENGTH[unit], _clip(unit), note=MOST) for unit in UNITS]
    return [
        *noises,
        *clips,
        Axis("cohort", "Cohort", "clients a round", _plain("cohort")),
        Axis("rounds", "Rounds", "number", _plain("rounds"), cost=True),
        Axis("bytes", "Data sent, both ways", "bytes", sent, cost=True),
        Axis("simulated", "Simulated time", "s", _plain("simulated_seconds"), cost=True),
        Axis("seconds", "Wall-clock time of a run", "s", _plain("seconds"), note=LOAD),
    ]


def _varies(settings: list[Setting], axis: Axis) -> bool:
    """Whether the settings differ by more than a hundredth; wall-clock time never repeats, so by more than half."""
    values = [value for each in settings if (value := each.mean(axis.quantity)) is not None]
    least = 0.5 if axis.key == "seconds" else 0.01
    return len(values) > 1 and max(values) - min(values) > least * max(map(abs, values))


def _plain(key: str) -> Quantity:
    def read(row: Json) -> float | None:
        return plain.finite(row.get(key))

    return read


def _noise(unit: str) -> Quantity:
    """The least noise of any client: what protects least."""

    def read(row: Json) -> float | None:
        return min(_ends((row.get("noise_multiplier") or {}).get(unit)), default=None)

    return read


def _clip(unit: str) -> Quantity:
    """The largest clip norm, where it adapts."""

    def read(row: Json) -> float | None:
        return max(_ends((row.get("clip_norm") or {}).get(unit)), default=None)

    return read


def _ends(value: Any) -> list[float]:
    """A number, or both ends of a range."""
    parts = [value.get("min"), value.get("max")] if isinstance(value, dict) else [value]
    return [size for part in parts if (size := plain.finite(part)) is not None]


def sent(row: Json) -> float | None:
    """The bytes of a run, up and down."""
    up, down = plain.finite(row.get("bytes_up")), plain.finite(row.get("bytes_down"))
    return None if up is None or down is None else up + down
