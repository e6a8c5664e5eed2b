"""Run directories as a run would leave them, in every variant that the report must cope with."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SCENARIO = """\
# Question: what does example-level epsilon = 4 cost on handwritten digits held by 20 people?
seed = 0
rounds = 30
[data]
source = "digits"
path = "<script>alert('x')</script>"
[population]
clients = 20
partition = { kind = "dirichlet", alpha = 0.5 }
[privacy.example]
target_epsilon = 4.0
delta = 1e-4
"""
ENVIRONMENT = {
    "python": "3.11.2",
    "platform": "Linux-6.1-x86_64",
    "cpu": "2 cores",
    "packages": {"torch": "2.13.0", "flwr": "1.41.0", "dp-accounting": "0.6.0"},
}
EXAMPLE = {
    "unit": "example",
    "epsilon": 3.9874,
    "delta": 1e-4,
    "relation": "add-remove",
    "adversary": "anyone who sees the updates of a client, the server and the released models included",
    "accountant": "pld",
    "conversion": "privacy loss distribution, pessimistic rounding, read at delta",
    "sampling": "poisson",
    "noise_multiplier": 1.1328,
    "rate": {"min": 0.0517, "max": 0.3333},
    "steps": {"min": 288, "max": 324},
    "clip_norm": 1.0,
    "clients": {"max": 3.9874, "median": 2.7312, "min": 1.2219},
    "delta_times_n": 0.1437,
    "n": 1437,
    "randomness": "reproducible",
    "target_epsilon": 4.0,
    "budget": None,
    "rdp": 4.4021,
    "prv": 3.9911,
    "mechanism": "gaussian",
    "placement": "client",
    "assumptions": ["The number of records of a client is treated as public, because the rate depends on it."],
    "flags": [],
    "nan_updates": 0,
}
CLIENT = {
    "unit": "client",
    "epsilon": 9.6132,
    "delta": 1e-5,
    "relation": "zero-out",
    "adversary": "whoever receives the released models",
    "accountant": "pld",
    "conversion": "privacy loss distribution, pessimistic rounding",
    "sampling": "poisson",
    "noise_multiplier": 1.0421,
    "rate": 0.5,
    "steps": 30,
    "clip_norm": 0.5077,
    "clients": {"max": 9.6132, "median": 9.6132, "min": 9.6132},
    "delta_times_n": 0.0002,
    "n": 20,
    "randomness": "secure",
    "target_epsilon": None,
    "budget": 10.0,
    "rdp": 10.7113,
    "prv": None,
    "mechanism": "gaussian",
    "placement": "server",
    "assumptions": ["The server adds the noise as described and forgets the updates."],
    "flags": ["The population is small: 20 clients."],
    "nan_updates": 3,
}
DATA_NOTES = ["hospital.csv: 3 of 303 rows were left out: 3 no value in <chol>.", "Numeric columns are scaled."]
OUTSIDE = ["The accuracy and the loss of the released models on 360 held-out records.", "The number of clients."]

MakeRun = Callable[..., Path]


def rounds(number: int, planned: int = 30, units: tuple[str, ...] = ("example", "client")) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [
        {
            "round": t,
            "seconds": round(float(random.uniform(0.1, 0.16)), 4),
            "cohort": int(random.binomial(20, 0.5)),
            "dropped": int(t % 11 == 0),
            "loss": round(2.3 * 0.9**t + 0.2, 4) if t % 2 == 0 or t == 1 else None,
            "accuracy": round(0.95 - 0.85 * 0.88**t, 4) if t % 2 == 0 or t == 1 else None,
            "bytes_up": 400_000,
            "bytes_down": 410_000,
            "epsilon_example": round(3.9874 * (t / planned) ** 0.5, 4) if "example" in units else None,
            "epsilon_client": round(9.6132 * (t / planned) ** 0.6, 4) if "client" in units else None,
        }
        for t in range(1, number + 1)
    ]


def clients(number: int = 20, classes: int = 10) -> dict[str, Any]:
    random = np.random.default_rng(2)
    counts = np.array([random.multinomial(72, random.dirichlet([0.5] * classes)) for _ in range(min(number, 50))])
    return {
        "clients": number,
        "records": 1437,
        "sizes": {"edges": [20, 40, 60, 80, 100, 120], "counts": [3, 4, 7, 4, 2], "min": 21, "median": 70, "max": 118},
        "labels": {
            "classes": [str(name) for name in range(classes)],
            "clients": list(range(min(number, 50))),
            "counts": counts.tolist(),
        },
        "epsilon_example": {"edges": [1, 1.5, 2, 2.5, 3, 3.5, 4], "counts": [2, 3, 4, 5, 4, 2]},
        "participations": {"edges": [8, 10, 12, 14, 16, 18, 20], "counts": [1, 3, 6, 6, 3, 1]},
    }


def summary(completed: int, privacy: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    metrics = {"accuracy": rounds(30)[-1]["accuracy"], "loss": rounds(30)[-1]["loss"]} if completed else {}
    return {
        "scenario": "quickstart",
        "digest": "4f2a9c1e7b3d5f60a1b2c3d4e5f60718",
        "engine": "inprocess",
        "trainer": "vectorised",
        "trainer_reason": "the model has only layers that can be batched",
        "device": "cpu",
        "rounds": completed,
        "rounds_planned": 30,
        "status": "completed",
        "status_reason": "",
        "metrics": metrics,
        "test_records": 360,
        "parameters": 20_522,
        "model": "cnn",
        "privacy": privacy,
        "seconds": {"total": 6.81, "setup": 2.2, "round_median": 0.131},
        "bytes": {"up": 400_000 * completed, "down": 410_000 * completed},
        "memory": {"peak_bytes": 612_000_000},
        "outside": OUTSIDE,
        "data_notes": DATA_NOTES,
        "projected": False,
    } | changes


def cross_validation(accuracies: tuple[float, ...] = (0.6, 0.68, 0.74), **changes: Any) -> dict[str, Any]:
    """The summary of the folds together: one with each of these accuracies."""
    folds = [
        {
            **{"fold": number, "directory": f"fold-{number}", "status": "completed", "rounds": 30, "digest": "0"},
            **{"metrics": {"accuracy": accuracy, "loss": 1 - accuracy}, "test_records": 120 + number},
        }
        for number, accuracy in enumerate(accuracies, 1)
    ]
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
    mean = float(np.mean(accuracies))
    statement = EXAMPLE | {"target_epsilon": None, "fold_limits": [4.0], "epsilon": 8.107, "rdp": 8.9, "prv": None}
    found = {"metrics": {"accuracy": mean, "loss": 1 - mean}, "metrics_std": {"accuracy": spread, "loss": spread}}
    return summary(30, [statement], folds=folds, folds_planned=3, **found) | changes


def write_run(directory: Path, changes: dict[str, Any]) -> Path:
    """Write a run directory; `changes` replaces the content of a file, by its stem."""
    files = {
        "scenario": SCENARIO,
        "environment": ENVIRONMENT,
        "rounds": rounds(30),
        "clients": clients(),
        "summary": summary(30, [EXAMPLE, CLIENT]),
    } | changes
    directory.mkdir(parents=True)
    (directory / "scenario.toml").write_text(files["scenario"], encoding="utf-8")
    lines = "".join(json.dumps(row) + "\n" for row in files["rounds"])
    (directory / "rounds.jsonl").write_text(lines, encoding="utf-8")
    for stem in ("environment", "clients", "summary"):
        (directory / f"{stem}.json").write_text(json.dumps(files[stem]), encoding="utf-8")
    return directory


def variants() -> dict[str, dict[str, Any]]:
    """Every kind of run that the report must cope with: what differs from a complete run with both units."""
    none = {"unit": "none", "epsilon": "inf", "delta": None}
    unprotected = clients() | {"epsilon_example": None}
    nothing = {"epsilon": 0.0, "steps": 0, "clients": {"max": 0.0, "median": 0.0, "min": 0.0}, "rdp": 0.0, "prv": None}
    reason = "round 13 would have spent epsilon 4.02 of 4.0 for one record"
    many = [f"Sentence number {index} about this run, which is rather long-winded." for index in range(60)]
    return {
        "both": {},
        "example": {"summary": summary(30, [EXAMPLE]), "rounds": rounds(30, units=("example",))},
        "client": {"summary": summary(30, [CLIENT]), "rounds": rounds(30, units=("client",)), "clients": unprotected},
        "none": {"summary": summary(30, [none]), "rounds": rounds(30, units=()), "clients": unprotected},
        "exhausted": {
            "summary": summary(12, [EXAMPLE], status="budget_exhausted", status_reason=reason),
            "rounds": rounds(12, 12, ("example",)),
        },
        "one": {
            "summary": summary(1, [EXAMPLE | {"epsilon": 0.728, "clients": {"max": 0.728, "median": 0.5, "min": 0.0}}]),
            "rounds": rounds(1, units=("example",)),
        },
        "zero": {
            "summary": summary(0, [EXAMPLE | nothing], status="interrupted"),
            "rounds": [],
            "clients": unprotected | {"participations": {"edges": [], "counts": []}},
        },
        "folds": {"summary": cross_validation(), "rounds": [], "clients": {"clients": 20, "records": 1437}},
        "long": {
            "summary": summary(5000, [EXAMPLE | {"assumptions": many, "flags": many}, CLIENT], outside=many),
            "rounds": rounds(5000, 5000),
            "clients": clients(3400, 62),
            "scenario": SCENARIO + "".join(f"key_{index} = '{'x' * 200}'\n" for index in range(400)),
        },
    }
