"""What a sweep came to: ``sweep.json``, with every setting's mean and interval, the best of them, and the baselines."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedsim.sweeps.objectives import FINAL, means, merit, value_of
from fedsim.sweeps.settings import Search, Sweep
from fedsim.sweeps.space import Choices

Json = dict[str, Any]
CONFIDENCE = 0.95
# What a model is worth that has learnt nothing, where that is the same for all data.
NOTHING_LEARNT = {
    "auroc": (0.5, "a score that does not look at the record"),
    "r2": (0.0, "always the mean of the test records"),
}


def interval(values: Sequence[float]) -> Json:
    """Mean and two-sided 95 % t interval over seeds; without bounds for a single one, or where one is infinite."""
    mean = fmean(values)
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return {"mean": mean, "low": None, "high": None, "n": len(values)}
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def outcome(sweep: Sweep, rows: Iterable[Json], objectives: Sequence[str], folder: Path) -> Json:
    """The contents of sweep.json, from the lines of the runs that ended."""
    ordered = sorted(rows, key=lambda row: (row["trial"], row["seed"]))
    by_trial = {number: list(lines) for number, lines in groupby(ordered, lambda row: int(row["trial"]))}
    settings = [_setting(number, lines, objectives) for number, lines in by_trial.items()]
    metric = next((str(row["main_metric"]) for row in ordered if row["main_metric"]), None)
    return {
        "name": sweep.name,
        "method": sweep.search.method,
        "objectives": list(objectives),
        "space": {key: _axis(axis) for key, axis in sweep.space.items()},
        "seeds": list(sweep.search.seeds),
        "counts": {"settings": len(settings), "runs": len(ordered)} | Counter(row["status"] for row in ordered),
        "interval": "t, 95 %, over seeds",
        "settings": settings,
        "best": best(by_trial, objectives),
        "selection": sweep.search.selection,
        "selection_assumes": assumed(sweep.search),
        "baselines": {
            "trivial": trivial(ordered, metric, folder),
            "non_private": non_private(by_trial, metric),
        },
    }


def _setting(number: int, rows: list[Json], objectives: Sequence[str]) -> Json:
    measured = [row for row in rows if row["status"] != "failed"]
    found = {name: [value for row in measured if (value := value_of(row, name)) is not None] for name in objectives}
    return {
        "trial": number,
        "values": rows[0]["values"],
        "status": dict(Counter(row["status"] for row in rows)),
        "objectives": {name: interval(values) if values else None for name, values in found.items()},
    }


def _axis(axis: Any) -> Any:
    return list(axis.options) if isinstance(axis, Choices) else {"low": axis.low, "high": axis.high, "log": axis.log}


def whole(rows: Sequence[Json]) -> bool:
    """Whether every run of a setting ended by itself."""
    return all(row["status"] in FINAL for row in rows)


def best(by_trial: dict[int, list[Json]], objectives: Sequence[str]) -> list[int]:
    """The setting with the best mean, or with two objectives those that no other one beats; only whole settings."""
    scores = {number: means(rows, objectives) for number, rows in by_trial.items() if whole(rows)}
    merits = {
        number: tuple(merit(value, name) for value, name in zip(score, objectives, strict=True))
        for number, score in scores.items()
        if score is not None
    }
    if len(objectives) == 1:
        return [max(merits, key=lambda number: (merits[number], -number))] if merits else []
    return [number for number, own in merits.items() if not any(_beats(other, own) for other in merits.values())]


def _beats(other: tuple[float, ...], own: tuple[float, ...]) -> bool:
    return other != own and all(theirs >= ours for theirs, ours in zip(other, own, strict=True))


def non_private(by_trial: dict[int, list[Json]], metric: str | None) -> int | None:
    """The best setting in which nothing is protected, by the main metric."""
    if metric is None:
        return None
    open_ones = {number: rows for number, rows in by_trial.items() if all(_unprotected(row) for row in rows)}
    return next(iter(best(open_ones, [metric])), None)


def _unprotected(row: Json) -> bool:
    return all(value is None or value == "inf" for value in row["epsilon"].values())


def trivial(rows: Sequence[Json], metric: str | None, folder: Path) -> Json | None:
    """What the main metric is without learning: the most frequent class, as a mean over the runs' test records."""
    if metric in NOTHING_LEARNT:
        value, how = NOTHING_LEARNT[metric]
        return {"metric": metric, "value": value, "how": how}
    if metric != "accuracy":
        return None
    shares = {row["seed"]: share for row in rows if (share := _most_frequent(folder / row["run"])) is not None}
    how = "always the most frequent class of the test records; mean over seeds"
    return {"metric": metric, "value": fmean(shares.values()), "how": how} if shares else None


def _most_frequent(run: Path) -> float | None:
    """The share of the most frequent class among a run's test records."""
    file = run / "summary.json"
    classes = json.loads(file.read_text()).get("per_class") if file.exists() else None
    counts = [each["records"] for each in classes or ()]
    return max(counts) / sum(counts) if sum(counts) else None


def assumed(search: Search) -> str:
    """What the choice of the best setting assumes, in a sentence or two."""
    if search.selection == "public":
        return "The records that settings are compared on, and all that runs train on, count as public."
    random_number = (
        "Papernot and Steinke 2022 (arXiv 2110.03620) cover the publication of the best of a secret random number of "
        "settings, drawn independently of the data; this sweep tried a number that was fixed beforehand, "
    )
    if search.method == "tpe" or search.halving is not None:
        return (
            "Later runs were chosen by the results of earlier ones, so only the composition of all runs covers the "
            "choice of the best."
        )
    return random_number + "so of it only the composition of all runs is certain."
