"""What a run leaves behind as numbers: ``summary.json`` and ``clients.json``."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from dataclasses import asdict
from typing import Any, cast

from fedsim.attacking import attack_summary
from fedsim.deliveries import deliveries
from fedsim.evaluation import assess, client_metrics
from fedsim.holdings import client_names
from fedsim.models.transfer import transfer_of
from fedsim.params import bind_vector
from fedsim.personal import gains, personal_metrics, personal_summary, personal_values
from fedsim.population.statistics import histogram, label_counts, size_statistics
from fedsim.privacy.outside import outside
from fedsim.privacy.statement import privacy_entries
from fedsim.privacy.statement_devices import drop_out_sentences
from fedsim.scenario import Scenario
from fedsim.server import Session


def summarise(session: Session, status: str, reason: str, setup: float) -> dict[str, Any]:
    """The summary of section 8 of the design; seconds, bytes and the statement of every unit."""
    began = time.perf_counter()
    federation, scenario = session.federation, session.federation.scenario
    remote = federation.holdings.remote
    rows = session.directory.rounds()
    assessment = assess(federation, session.server.params)
    return {
        "scenario": scenario.name,
        "digest": scenario.digest,
        "engine": session.engine,
        "trainer": federation.trainer_name,
        "trainer_reason": federation.trainer_reason + _halved(federation.trainer.halving.longest),
        "device": federation.device.type,
        "rounds": session.progress.round,
        "rounds_planned": scenario.rounds,
        "status": status,
        "status_reason": reason,
        "skipped_rounds": session.progress.skipped_rounds,
        "deliveries": deliveries(session.progress),
        **_on_devices(scenario),
        "task": federation.task.objective.kind,
        "metrics": assessment.metrics | personal_metrics(session, session.progress.round),
        "main_metric": federation.task.objective.main_metric,
        "personal": personal_summary(federation),
        **assessment.tables,
        "test_records": remote.records if remote and remote.tests else len(federation.task.data.test),
        **({"sites": remote.describe()} if remote else {}),
        "model": scenario.model.name,
        "parameters": federation.start.numel(),
        "parameters_total": sum(parameter.numel() for parameter in federation.module.parameters()),
        "transfer": transfer_of(scenario.model),
        "privacy": _privacy(session),
        "outside": [*outside(federation), *_carried(session)],
        "attack": attack_summary(federation),
        "data_notes": list(federation.holdings.notes),
        "projected": scenario.privacy.client is not None and scenario.privacy.client.projected is not None,
        "seconds": _seconds(session, setup, rows, began),
        "communication": federation.channel.summary,
        "bytes": {"up": sum(row["bytes_up"] for row in rows), "down": sum(row["bytes_down"] for row in rows)},
        "memory": {"peak_bytes": _peak_bytes()},
    }


def _seconds(session: Session, setup: float, rows: list[dict[str, Any]], began: float) -> dict[str, float]:
    """How long it all took; ``began`` is when the summary was, whose making counts too."""
    rounds = [row["seconds"] for row in rows]
    return {
        "total": round(setup + session.progress.seconds + time.perf_counter() - began, 3),
        "setup": round(setup, 3),
        "round_median": round(statistics.median(rounds), 6) if rounds else 0.0,
        **({"simulated": session.progress.clock} if session.federation.pace is not None else {}),
    }


def _halved(longest: int | None) -> str:
    return "" if longest is None else f"; blocks of at most {longest} client(s), as memory ran out"


def _carried(session: Session) -> list[str]:
    """That what clients keep went to the nodes and back, where these keep nothing."""
    if not session.sends_state or session.store is None:
        return []
    return [
        "The machines that simulate the clients keep nothing: what each client keeps goes to them with every job and "
        "back to the server as it is, without noise. No guarantee covers what these machines and the lines between "
        "them see."
    ]


def _privacy(session: Session) -> list[dict[str, Any]]:
    """The statement of every unit, with what happened in this run."""
    entries, left_out = privacy_entries(session.federation, session.ledger), session.progress.left_out
    for entry in entries:
        entry["nan_updates"] = session.progress.invalid_updates
        norms = [row[key] for row in session.directory.rounds() if (key := f"clip_norm_{entry['unit']}") in row]
        if norms:  # adaptive: the norm that bounds a contribution is not the one the run started with
            norms.append(entry["clip_norm"])
            entry["clip_norm"] = {"min": min(norms), "max": max(norms)}
        if session.federation.pace is not None and entry["unit"] != "none":
            if not session.federation.plan.hides_the_cohort:
                entry["drop_outs"] = session.progress.drop_outs
            entry["assumptions"] += drop_out_sentences(session.federation, entry["unit"], session.progress)
        if entry["unit"] == "example" and left_out:
            entry["flags"].append(
                f"In {left_out} case(s) a client was drawn whose budget was spent, and left out: later rounds lean "
                "towards clients that were drawn less often or spend less per round."
            )
    return entries


def _on_devices(scenario: Scenario) -> dict[str, Any]:
    """The devices, and an asynchronous run's method, also what it does not let one set; nothing without devices."""
    devices, method = scenario.devices, scenario.asynchronous
    found: dict[str, Any] = {} if devices is None else {"devices": asdict(devices)}
    if method is not None:
        places = {"buffer_size": method.buffer_size, "concurrency": method.concurrency}
        found["asynchronous"] = {"kind": method.kind, **places, "staleness": asdict(cast("Any", method.staleness))}
    return found


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kibibytes on Linux


def client_statistics(session: Session) -> dict[str, Any]:
    """Histograms over clients (sizes, participations, epsilon), labels and metrics of the first, for the report."""
    federation = session.federation
    remote = federation.holdings.remote is not None  # then the labels are unknown here
    labels = None if remote else label_counts(federation.task.data, federation.population)
    if labels is not None:
        labels["clients"] = client_names(federation.scenario, federation.holdings, len(labels["clients"]))
    example = federation.plan.example
    epsilons = session.ledger.epsilons("example", example.deltas) if example else None
    return {
        **size_statistics(federation.population),
        "labels": labels,
        "metrics_by_client": client_metrics(
            federation, session.server.params, personal_values(session, session.progress.round)
        ),
        "personal": gains(session),
        "epsilon_example": histogram(epsilons) if epsilons is not None else None,
        "participations": histogram(session.directory.participations(len(federation.population))),
    }


def pictures(session: Session) -> dict[str, Any] | None:
    """What the final model makes of a few test records, where they may be shown."""
    if not session.federation.shows_records:
        return None
    bind_vector(session.federation.module, session.server.params)
    return session.federation.task.pictures(session.federation.module)
