"""What a run leaves behind as numbers: ``summary.json`` and ``clients.json``."""

from __future__ import annotations

import resource
import statistics
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.evaluation import evaluate
from fedsim.privacy.statement import outside, privacy_entries
from fedsim.server import Session

SHOWN_CLIENTS = 50


def summarise(session: Session, status: str, reason: str, setup: float) -> dict[str, Any]:
    """The summary of section 8 of the design; seconds, bytes and the statement of every unit."""
    federation, scenario = session.federation, session.federation.scenario
    rows = session.directory.rounds()
    seconds = [row["seconds"] for row in rows]
    return {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "engine": scenario.engine.kind,
        "trainer": federation.trainer_name,
        "trainer_reason": federation.trainer_reason,
        "device": federation.device.type,
        "rounds": session.progress.round,
        "rounds_planned": scenario.rounds,
        "status": status,
        "status_reason": reason,
        "metrics": evaluate(federation, session.server.params),
        "test_records": len(federation.task.data.test),
        "model": scenario.model.name,
        "parameters": federation.start.numel(),
        "privacy": _privacy(session),
        "outside": outside(federation),
        "projected": scenario.privacy.client is not None and scenario.privacy.client.projected is not None,
        "seconds": {
            "total": round(setup + session.progress.seconds, 3),
            "setup": round(setup, 3),
            "round_median": round(statistics.median(seconds), 6) if seconds else 0.0,
        },
        "bytes": {"up": sum(row["bytes_up"] for row in rows), "down": sum(row["bytes_down"] for row in rows)},
        "memory": {"peak_bytes": _peak_bytes()},
    }


def _privacy(session: Session) -> list[dict[str, Any]]:
    """The statement of every unit, with what happened in this run."""
    entries, left_out = privacy_entries(session.federation, session.ledger), session.progress.left_out
    for entry in entries:
        entry["nan_updates"] = session.progress.invalid_updates
        norms = [row[key] for row in session.directory.rounds() if (key := f"clip_norm_{entry['unit']}") in row]
        if norms:  # adaptive: the norm that bounds a contribution is not the one the run started with
            norms.append(entry["clip_norm"])
            entry["clip_norm"] = {"min": min(norms), "max": max(norms)}
        if entry["unit"] == "example" and left_out:
            entry["flags"].append(
                f"In {left_out} case(s) a client was drawn whose budget was spent, and left out: later rounds lean "
                "towards clients that were drawn less often or spend less per round."
            )
    return entries


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kibibytes on Linux


def client_statistics(session: Session) -> dict[str, Any]:
    """Histograms over clients (sizes, participations, epsilon) and the labels of the first clients, for the report."""
    federation, sizes = session.federation, session.federation.population.sizes
    example = federation.plan.example
    epsilons = session.ledger.epsilons("example", example.deltas) if example else None
    return {
        "clients": len(sizes),
        "records": int(sizes.sum()),
        "sizes": {
            **histogram(sizes),
            "min": int(sizes.min()),
            "median": float(np.median(sizes)),
            "max": int(sizes.max()),
        },
        "labels": _labels(session),
        "epsilon_example": histogram(epsilons) if epsilons is not None else None,
        "participations": histogram(session.directory.participations(len(sizes))),
    }


def histogram(values: NDArray[Any]) -> dict[str, list[float]]:
    """At most 20 bins of whole width for whole numbers; values that differ by less than 1 % share one bin."""
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer):
        step = max(1, -(-int(high - low + 1) // 20))
        bins = np.arange(low, high + step + 1, step) - 0.5
    elif not np.isfinite(high) or high - low <= 0.01 * high:
        bins = np.array([0.95 * low, 1.05 * high]) if 0 < high < np.inf else np.array([0.0, 1.0])
    else:
        bins = np.linspace(low, high, min(20, len(np.unique(values))) + 1)
    counts, edges = np.histogram(values, bins=bins)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _labels(session: Session) -> dict[str, Any] | None:
    federation = session.federation
    data = federation.task.data
    if data.kind != "classes":
        return None
    shown = range(min(SHOWN_CLIENTS, len(federation.population)))
    labels = data.train.labels
    counts = [np.bincount(labels[federation.population.records(i)], minlength=len(data.names)).tolist() for i in shown]
    return {"classes": list(data.names), "clients": list(shown), "counts": counts}
