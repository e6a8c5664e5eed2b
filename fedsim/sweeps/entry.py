"""One run of a sweep as a line of its record."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from fedsim.sweeps.trials import Task

Json = dict[str, Any]
OF_UNITS = ("noise_multiplier", "clip_norm", "relation", "adversary", "randomness")


def entry(task: Task, run: Path, summary: Json) -> Json:
    """The line of a run that ended, or was paused (status "interrupted")."""
    units = {each["unit"]: each for each in summary["privacy"] if each["unit"] != "none"}
    rounds = _rounds(run)
    return _head(task, summary["status"]) | {
        "rounds": summary["rounds"],
        "metrics": summary["metrics"],
        "main_metric": summary["main_metric"],
        "epsilon": {unit: each["epsilon"] for unit, each in units.items()},
        "delta": {unit: each["delta"] for unit, each in units.items()},
        "seconds": summary["seconds"]["total"],
        "simulated_seconds": rounds[-1].get("simulated_seconds") if rounds else None,
        "bytes_up": summary["bytes"]["up"],
        "bytes_down": summary["bytes"]["down"],
        **{name: {unit: each[name] for unit, each in units.items()} for name in OF_UNITS},
        "cohort": fmean(row["cohort"] for row in rounds) if rounds else None,
        "projected": bool(summary.get("projected")),
    }


def failure(task: Task, error: str) -> Json:
    """The line of a run that failed."""
    return _head(task, "failed") | {
        "error": error,
        "rounds": 0,
        "metrics": {},
        "main_metric": None,
        "epsilon": {},
        "delta": {},
        "seconds": 0.0,
        "simulated_seconds": None,
        "bytes_up": 0,
        "bytes_down": 0,
        **{name: {} for name in OF_UNITS},
        "cohort": None,
        "projected": False,
    }


def with_units(row: Json, units: list[str]) -> Json:
    """The line with infinity where it gives no guarantee for a unit that the sweep is about, null for other units."""
    lost = {unit: "inf" if unit in units and row["status"] != "failed" else None for unit in ("example", "client")}
    return row | {"epsilon": lost | row["epsilon"], "delta": dict.fromkeys(lost) | row["delta"]}


def _head(task: Task, status: str) -> Json:
    return {
        "trial": task.trial.number,
        "seed": task.seed,
        "values": task.trial.values,
        "status": status,
        "error": None,
        "run": f"runs/{task.name}",
    }


def _rounds(run: Path) -> list[Json]:
    """The lines of a run, or of all its folds."""
    files = [run / "rounds.jsonl", *sorted(run.glob("fold-*/rounds.jsonl"))]
    return [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
