"""Successive halving: which settings go on after each rung (Jamieson and Talwalkar 2016, arXiv 1502.07943)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fedsim.sweeps.objectives import Json, means, merit
from fedsim.sweeps.settings import Halving


def rungs(halving: Halving, rounds: int) -> list[int]:
    """After how many rounds runs are compared: ``first_rounds`` times powers of ``factor``, below ``rounds``."""
    found, at = [], halving.first_rounds
    while at < rounds:
        found.append(at)
        at *= halving.factor
    return found


def survivors(rows: Mapping[int, Sequence[Json]], objective: str, factor: int) -> list[int]:
    """The best 1 / ``factor`` of the settings (at least one) by their lines at a rung, in the order of numbers.

    Ranked by the mean of the objective over seeds; of equals the lower number. A setting of which a seed failed or
    measured nothing does not survive: it could not be the best one any more.
    """
    scores = {number: means(lines, (objective,)) for number, lines in rows.items()}
    ranked = sorted((-merit(score[0], objective), number) for number, score in scores.items() if score is not None)
    return sorted(number for _, number in ranked[: max(1, len(rows) // factor)])


def at_rung(rung_rows: Iterable[Json], final_rows: Iterable[Json], rounds: int) -> dict[int, list[Json]]:
    """The lines to compare at a rung by setting: the paused runs', and those of runs that had ended before it."""
    paused = [row for row in rung_rows if row["rounds"] == rounds]
    known = {(row["trial"], row["seed"]) for row in paused}
    ended = [row for row in final_rows if (row["trial"], row["seed"]) not in known and row["status"] != "pruned"]
    lines: dict[int, list[Json]] = {}
    for row in sorted([*paused, *ended], key=lambda each: (each["trial"], each["seed"])):
        lines.setdefault(row["trial"], []).append(row)
    return lines
