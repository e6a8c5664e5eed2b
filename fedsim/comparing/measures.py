"""What is said of groups of runs: means with intervals, paired differences, and how clients fare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsim.comparing.runs import Group, Run
from fedsim.report.metrics import final_metric
from fedsim.report.plain import number
from fedsim.report.statistics import Interval, t_interval

THIRDS = ("smallest", "middle", "largest")
_TAILS = {"mean": ("_mean",), "bad_tail": ("_p10", "_p90"), "worst": ("_worst",)}


def facts(group: Group) -> dict[str, Any]:
    """The numbers of a group: metrics over seeds, the largest epsilon of each unit, costs."""
    runs = group.runs
    return {
        "number": group.number,
        "label": group.label,
        "trial": group.trial,
        "runs": [str(run.path) for run in runs],
        "seeds": sorted({run.seed for run in runs}),
        "status": dict(sorted(Counter(run.status for run in runs).items())),
        "whole": bool(group.whole.runs),
        "main_metric": main_metric(group),
        "metrics": {name: interval(list(group.by_seed(name).values())) for name in _metrics(runs)},
        "privacy": _privacy(runs),
        "rounds": _mean(runs, "rounds"),
        "bytes_up": _mean(runs, "bytes", "up"),
        "bytes_down": _mean(runs, "bytes", "down"),
        "seconds": _mean(runs, "seconds", "total"),
        "simulated_seconds": _mean(runs, "seconds", "simulated"),
        "clients": clients(group),
    }


def interval(values: Sequence[float]) -> dict[str, Any] | None:
    """The mean over seeds, with Student's t interval where there are two or more."""
    return _plain(t_interval(values)) if values else None


def _plain(found: Interval) -> dict[str, Any]:
    known = {"low": found.low, "high": found.high} if found.known else {"low": None, "high": None}
    return {"mean": found.value, **known, "seeds": found.repetitions}


def main_metric(group: Group) -> str | None:
    """The metric that a reader asks for first."""
    found = final_metric(group.runs[0].summary)
    return found[0] if found else None


def _metrics(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.summary.get("metrics") or {}))


def _mean(runs: Sequence[Run], *path: str) -> float | None:
    found = []
    for run in runs:
        value: Any = run.summary
        for name in path:
            value = (value or {}).get(name)
        if isinstance(value, int | float):
            found.append(value)
    return float(np.mean(found)) if found else None


def _privacy(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """For each unit the largest epsilon of any run, with its delta and relation; no unit where a run has none."""
    worst: dict[str, dict[str, Any]] = {}
    for run in runs:
        for entry in run.summary.get("privacy") or []:
            unit, spent = str(entry.get("unit")), number(entry.get("epsilon"))
            if spent is not None and (unit not in worst or spent > worst[unit]["epsilon"]):
                worst[unit] = {
                    "epsilon": spent,
                    **{name: entry.get(name) for name in ("delta", "relation", "adversary")},
                }
                worst[unit]["projected"] = bool(run.summary.get("projected")) and unit == "client"
    return worst


def paired(reference: Group, other: Group) -> dict[str, Any] | None:
    """The other's main metric minus the reference's at the same seeds, with Student's t interval of that difference.

    None where they share no seed at which both ended by themselves.
    """
    metric = main_metric(reference)
    if metric is None:
        return None
    first, second = reference.whole.by_seed(metric), other.whole.by_seed(metric)
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    found = t_interval([second[seed] - first[seed] for seed in seeds])
    return {
        **{"reference": reference.label, "reference_number": reference.number},
        **{"other": other.label, "other_number": other.number},
        "metric": metric,
    } | _plain(found)


def clients(group: Group) -> dict[str, Any] | None:
    """How a metric is distributed over clients: mean, bad tail, worst, and the mean of each third of clients by size.

    Means over the group's seeds; None where clients hold back no records to be tested on.
    """
    names = _metrics(group.runs)
    base = next((name.removesuffix("_worst") for name in names if name.endswith("_worst")), None)
    if base is None or base.endswith("_personal"):
        return None
    found: dict[str, Any] = {"metric": base}
    for what, endings in _TAILS.items():
        values = [list(group.by_seed(base + ending).values()) for ending in endings]
        known = next((each for each in values if each), [])
        found[what] = float(np.mean(known)) if known else None
    return found | {"by_size": _by_size(group)}


def _by_size(group: Group) -> dict[str, float] | None:
    """The mean of the smallest, middle and largest third of clients, by their number of test records."""
    thirds: list[list[float]] = []
    for run in group.runs:
        rows = client_values(run)
        if len(rows) >= len(THIRDS):
            parts = np.array_split(np.array([value for _, value in sorted(rows)]), len(THIRDS))
            thirds.append([float(part.mean()) for part in parts])
    return dict(zip(THIRDS, np.mean(thirds, axis=0).tolist(), strict=True)) if thirds else None


def client_values(run: Run) -> list[tuple[int, float]]:
    """Each tested client's number of test records and metric, where the record has them one by one."""
    rows = (run.clients.get("metrics_by_client") or {}).get("clients") or []
    return [(int(row["test_records"]), float(row["value"])) for row in rows if row.get("value") is not None]
