"""What a sink is: something that receives the numbers of a run's record, while it goes on or afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from fedsim.frames import numeric

Row = dict[str, Any]


@dataclass(frozen=True)
class Tracked:
    """The run that is told of: its name, its random id, its scenario (dotted keys), where to write, when it began.

    ``folder`` may be shared by runs; ``own`` is a name in it that no other run has. ``began`` is in seconds since 1970.
    """

    name: str
    run_id: str
    settings: dict[str, Any]
    folder: Path
    began: float

    @property
    def own(self) -> str:
        """A name that no other run has."""
        return f"{self.name}-{self.run_id[:8]}"


class Sink(Protocol):
    """Receives a run's rounds, in order, and at the end its summary; may fail, which stops no run."""

    needs: ClassVar[tuple[str, ...]]
    """The packages it needs, as they are imported."""

    @classmethod
    def open(cls, run: Tracked) -> Self:
        """Begin, in place of what an earlier start of the same run left behind."""

    def row(self, row: Row) -> None:
        """Take a line of rounds.jsonl."""

    def close(self, summary: Row) -> None:
        """Take summary.json, after the last round."""


def scalars(row: Row) -> Iterator[tuple[str, float]]:
    """The numbers of a line of the record under their names; what was not measured is left out."""
    for name, value in row.items():
        number = numeric(value)
        if isinstance(number, int | float) and not isinstance(number, bool):
            yield name, float(number)


def seconds_of(row: Row) -> float:
    """How long a round took."""
    return float(row.get("seconds") or 0.0)


def statement(summary: Row) -> str:
    """The privacy statement of every unit, whole, and what no guarantee covers, as JSON."""
    return json.dumps({"privacy": summary.get("privacy") or [], "outside": summary.get("outside") or []}, indent=2)
