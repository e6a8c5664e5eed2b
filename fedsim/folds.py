"""k-fold cross-validation: one run for each fold, their mean and spread, and what they spend together."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.errors import BadInput
from fedsim.federation import Federation, build_federation
from fedsim.population.statistics import size_statistics
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.ledger_file import remove_ledger
from fedsim.privacy.outside import outside
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.statement import privacy_entries
from fedsim.record import RunDirectory
from fedsim.report import build_report
from fedsim.scenario import Scenario

# Runs a fold in its directory, or goes on with it, and returns its summary.
RunFold = Callable[[Scenario, Path], dict[str, Any]]

TESTED = (
    "Every record of a client with at least two is held back and tested in one of the folds, and the metrics are "
    "released without noise: nothing protects a record, or a client, from what the metrics of its fold tell."
)


def check_folds(scenario: Scenario) -> Federation:
    """All folds together as one federation: every record, and each client's least delta of any fold.

    Raises ``BadInput`` for a fold that cannot be run, and for a delta of 1 / n or more where n counts the records of
    all folds.
    """
    first, plan = None, None
    for fold in scenario.runs:
        federation = build_federation(fold)
        first = first or federation
        plan = _least_deltas(plan, federation.plan) if plan else federation.plan
    assert first is not None
    assert plan is not None
    whole = first.holdings.whole
    if plan.example is not None and (plan.example.deltas * whole.sizes >= 1).any():
        raise BadInput(
            f"privacy.example: with evaluation.folds a client's delta must be below 1 / n for all its n records, here "
            f"1 / {int(whole.sizes.max())} for the largest; at or above that, publishing one of them whole would count "
            "as private."
        )
    return replace(first, scenario=scenario, population=whole, plan=plan)


def _least_deltas(plan: PrivacyPlan, other: PrivacyPlan) -> PrivacyPlan:
    example, theirs = plan.example, other.example
    if example is None or theirs is None:
        return plan
    return replace(plan, example=replace(example, deltas=np.minimum(example.deltas, theirs.deltas)))


def run_folds(scenario: Scenario, directory: RunDirectory, together: Federation, run: RunFold) -> dict[str, Any]:
    """Run every fold that is not finished in ``fold-1``, ``fold-2`` ...; write and return the summary of them all."""
    summaries = list(_summaries(scenario, directory.path, run))
    summary = _summarise(scenario, directory.path, together, summaries)
    directory.write_json("clients.json", size_statistics(together.population))
    directory.write_json("summary.json", summary)
    build_report(directory.path)
    return summary


def _summaries(scenario: Scenario, path: Path, run: RunFold) -> Iterator[dict[str, Any]]:
    """Each fold's summary; after an interrupted fold no other is started."""
    for number, fold in enumerate(scenario.runs, 1):
        summary = run(fold, path / f"fold-{number}")
        yield summary
        if summary["status"] == "interrupted":
            return


def discard_unbegun(path: Path) -> None:
    """Remove a fold's directory if it was stopped before its run began, and so has no environment yet."""
    if path.exists() and not (path / "environment.json").exists():
        shutil.rmtree(path)


def _summarise(scenario: Scenario, path: Path, together: Federation, summaries: list[dict[str, Any]]) -> dict[str, Any]:
    first, finished = summaries[0], [one for one in summaries if one["status"] != "interrupted"]
    shared = (
        *(
            "scenario",
            "engine",
            "trainer",
            "trainer_reason",
            "device",
            "rounds_planned",
            "task",
            "main_metric",
            "model",
        ),
        *("parameters", "parameters_total", "transfer"),
    )
    sent = {way: sum(one["bytes"][way] for one in summaries) for way in ("up", "down")}
    seconds = {key: round(sum(one["seconds"][key] for one in summaries), 3) for key in ("total", "setup")}
    status, reason = _status(scenario, summaries)
    return {
        **{key: first[key] for key in shared},
        "personal": first.get("personal"),
        "digest": scenario.digest,
        "folds_planned": len(scenario.runs),
        "rounds": min(one["rounds"] for one in summaries),
        "status": status,
        "status_reason": reason,
        "metrics": {name: statistics.fmean(_values(finished, name)) for name in _names(finished)},
        "metrics_std": {name: _deviation(_values(finished, name)) for name in _names(finished)},
        "folds": [_fold(number, one) for number, one in enumerate(summaries, 1)],
        "test_records": sum(one["test_records"] for one in summaries),
        "privacy": _privacy(scenario, path, together, len(summaries)),
        "outside": [TESTED, *outside(together)[1:]],
        "data_notes": first["data_notes"],
        "projected": first["projected"],
        "seconds": seconds | {"round_median": statistics.median(one["seconds"]["round_median"] for one in summaries)},
        "bytes": sent,
        "memory": {"peak_bytes": max(one["memory"]["peak_bytes"] for one in summaries)},
    }


def _status(scenario: Scenario, summaries: list[dict[str, Any]]) -> tuple[str, str]:
    """The worst status of any fold, and in words how many have it."""
    for status in ("interrupted", "budget_exhausted", "early_stopped"):
        those = [one for one in summaries if one["status"] == status]
        if those:
            return status, f"{len(those)} of {len(scenario.runs)} folds: {those[0]['status_reason']}"
    return "completed", f"All rounds of all {len(summaries)} folds were run."


def _names(summaries: list[dict[str, Any]]) -> list[str]:
    return list(summaries[0]["metrics"]) if summaries else []


def _values(summaries: list[dict[str, Any]], name: str) -> list[float]:
    """A metric in each fold; NaN where it was not a number."""
    values = [one["metrics"][name] for one in summaries]
    return [math.nan if value is None else float(value) for value in values]


def _deviation(values: list[float]) -> float:
    """The standard deviation over folds (of a sample: over n - 1); of a single fold it is not known."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _fold(number: int, summary: dict[str, Any]) -> dict[str, Any]:
    kept = ("status", "rounds", "digest", "metrics", "test_records")
    return {"fold": number, "directory": f"fold-{number}", **{key: summary[key] for key in kept}}


def _privacy(scenario: Scenario, path: Path, together: Federation, folds: int) -> list[dict[str, Any]]:
    """The statement of every unit, over the events of all folds: one ledger, written beside the summary, holds them."""
    file = path / "ledger.db"
    remove_ledger(file)
    ledger = Ledger(file, together.population.digest(), len(together.population), run="")
    for number in range(1, folds + 1):
        ledger.absorb(path / f"fold-{number}" / "ledger.db")
    entries = privacy_entries(together, ledger)
    ledger.close()
    for entry in entries:
        if entry["unit"] != "none":
            _explain(scenario, entry)
    return entries


def _explain(scenario: Scenario, entry: dict[str, Any]) -> None:
    folds = scenario.evaluation.folds or 1
    entry["assumptions"].append(
        f"The {folds} folds train on overlapping records, so epsilon composes the events of all of them, as if every "
        "record were trained on in each."
    )
    limits = {name: entry[name] for name in ("target_epsilon", "budget")}
    entry |= dict.fromkeys(limits)
    entry["fold_limits"] = sorted({limit for limit in limits.values() if limit is not None})
    for limit in entry["fold_limits"]:
        spent = f"{entry['epsilon']:.4g}"
        entry["flags"].append(f"The limit of {limit:g} holds for each fold by itself; together they spent {spent}.")


def limit_lines(federation: Federation) -> list[str]:
    """What ``fedsim check`` says of limits that are not those of the whole cross-validation, a line each."""
    if len(federation.scenario.runs) == 1:
        return []
    limits = {plan.budget for plan in federation.plan.units if plan.budget is not None}
    return [
        f"folds: the limit of {limit:g} is for each fold; all folds together spend more; see fedsim plan"
        for limit in sorted(limits)
    ]
