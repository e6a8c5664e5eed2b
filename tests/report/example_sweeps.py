"""Sweep directories as a sweep would leave them: trials.jsonl, sweep.json, runs with ledgers and client metrics."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.privacy.ledger import SCHEMA

Json = dict[str, Any]
EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
SEEDS = (0, 1, 2, 3, 4)
TRIVIAL = {"metric": "accuracy", "value": 0.102, "how": "always the most frequent class of the test records"}
SWEEP = {
    "name": "tradeoff_digits",
    "method": "grid",
    "objectives": ["accuracy"],
    "seeds": list(SEEDS),
    "selection": "private",
    "baselines": {"trivial": TRIVIAL, "non_private": 5},
}


def line(trial: int, seed: int, epsilon: float | None, accuracy: float, **changes: Any) -> Json:
    """One finished run at example level (None: without privacy)."""
    private = epsilon is not None
    return {
        "trial": trial,
        "seed": seed,
        "values": {"privacy.example.target_epsilon": epsilon if private else "inf"},
        "status": "completed",
        "error": None,
        "run": f"runs/t{trial:04d}-s{seed}",
        "rounds": 30,
        "metrics": {"accuracy": accuracy, "loss": 1 - accuracy},
        "main_metric": "accuracy",
        "epsilon": {"example": epsilon if private else "inf", "client": None},
        "delta": {"example": 1e-4 if private else None, "client": None},
        "seconds": 6.0 + seed / 10,
        "simulated_seconds": None,
        "bytes_up": 400_000,
        "bytes_down": 410_000,
        "noise_multiplier": {"example": 4.0 / epsilon} if private and epsilon else {},
        "clip_norm": {"example": 1.0} if private else {},
        "cohort": 10.0,
    } | changes


def lines() -> list[Json]:
    """Five epsilons and the non-private setting, five seeds each, in the order of finishing."""
    random = np.random.default_rng(7)
    found = []
    for trial, epsilon in enumerate([*EPSILONS, None]):
        level = 0.95 if epsilon is None else 0.95 - 0.35 * float(np.exp(-0.9 * epsilon))
        for seed in SEEDS:
            found.append(line(trial, seed, epsilon, round(level + float(random.normal(0, 0.012)), 4)))
    return [found[index] for index in random.permutation(len(found))]


def clients(trial: int, seed: int, level: float) -> Json:
    """clients.json of a run in which those that hold less do worse."""
    random = np.random.default_rng([trial, seed])
    sizes = random.integers(4, 60, 20)
    values = np.clip(level - 0.5 / np.sqrt(sizes) * (1.5 if trial < 5 else 0.4) * random.uniform(0.5, 1.5, 20), 0, 1)
    rows = [
        {"client": number, "test_records": int(size), "value": float(value)}
        for number, (size, value) in enumerate(zip(sizes, values, strict=True))
    ]
    return {"clients": 20, "metrics_by_client": {"metric": "accuracy", "clients": rows}}


def write_ledger(path: Path, charges: list[tuple[str, float, float, int, list[int] | None]]) -> Path:
    """A ledger with charges: unit, noise multiplier, Poisson rate, count, clients (None: all)."""
    db = sqlite3.connect(path)
    db.executescript("PRAGMA synchronous = OFF;" + SCHEMA)
    db.execute("INSERT INTO meta VALUES ('p', 20)")
    for number, (unit, noise, rate, count, members) in enumerate(charges, 1):
        blob = None if members is None else np.array(members, "<i8").tobytes()
        row = ("r", number, unit, noise, rate, "poisson" if rate < 1 else "none", "add-remove", count, blob)
        db.execute(
            "INSERT INTO charges (run, round, unit, noise_multiplier, rate, sampling, relation, count, clients)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    db.commit()
    db.close()
    return path


def write_sweep(directory: Path, rows: list[Json], sweep: Json | None = None, *, runs: bool = True) -> Path:
    """Write a sweep's directory; with ``runs`` each row gets a run with a report, a ledger and client metrics."""
    directory.mkdir(parents=True)
    (directory / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (directory / "sweep.json").write_text(json.dumps(SWEEP if sweep is None else sweep), encoding="utf-8")
    for row in rows if runs else []:
        write_run(directory / str(row["run"]), row)
    return directory


def write_run(run: Path, row: Json) -> None:
    """What the report reads of a run."""
    run.mkdir(parents=True)
    (run / "report.html").write_text("<!DOCTYPE html><title>run</title>", encoding="utf-8")
    level = row["metrics"].get("accuracy", 0.5)
    (run / "clients.json").write_text(json.dumps(clients(row["trial"], row["seed"], level)), encoding="utf-8")
    epsilon, noise = row["epsilon"].get("example"), row["noise_multiplier"].get("example")
    private = isinstance(epsilon, float) and noise
    write_ledger(run / "ledger.db", [("example", float(noise), 0.1, 300, list(range(20)))] if private else [])


def many(number: int = 1000) -> list[Json]:
    """A random search of so many settings with one seed: everything varies, some fail, some are pruned."""
    random = np.random.default_rng(3)
    found = []
    for trial in range(number):
        epsilon = None if trial % 50 == 0 else round(float(10 ** random.uniform(-0.5, 1.1)), 4)
        rounds, clip = int(random.integers(5, 80)), round(float(10 ** random.uniform(-1.5, 0.5)), 4)
        private = 0.3 / (1 + epsilon) if epsilon is not None else 0.0
        accuracy = (
            0.95 - private - 0.3 / rounds - 0.05 * abs(float(np.log10(clip))) - abs(float(random.normal(0, 0.02)))
        )
        values = {
            "privacy.example.target_epsilon": "inf" if epsilon is None else epsilon,
            "privacy.example.clip_norm": clip,
            "algorithm.local.learning_rate": round(float(10 ** random.uniform(-3, 0)), 6),
            "algorithm.local.optimizer": str(random.choice(["sgd", "adam"])),
            "rounds": rounds,
        }
        row = line(
            trial, 0, epsilon, round(accuracy, 4), values=values, rounds=rounds, cohort=float(random.integers(2, 40))
        )
        row |= {"bytes_up": 40_000 * rounds, "bytes_down": 41_000 * rounds, "seconds": 0.2 * rounds}
        row["clip_norm"] = {} if epsilon is None else {"example": clip}
        found.append(row | (ENDS.get(trial % 40, {})))
    return found


ENDS: dict[int, Json] = {
    7: {"status": "failed", "error": "FedsimError: The loss is not finite.", "metrics": {}, "rounds": 0, "epsilon": {}},
    9: {"status": "pruned"},
    11: {"status": "early_stopped"},
}


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>$x$ {{ 7*7 }} javascript:alert(3)"


def hostile() -> list[Json]:
    """Both units, client metrics, simulated time, a failed and two pruned runs; hostile text wherever text can be."""
    found = []
    for row in lines():
        trial, seed, accuracy = row["trial"], row["seed"], row["metrics"]["accuracy"]
        if trial < 5:
            row["epsilon"]["client"] = row["epsilon"]["example"] * 1.7 + 0.3 if trial != 2 else None
            row["delta"]["client"] = 1e-5
        row["metrics"] |= {"accuracy_mean": accuracy - 0.01, "accuracy_p10": accuracy - 0.1}
        row["metrics"] |= {"accuracy_worst": accuracy - 0.3, HOSTILE: 0.5}
        row |= {"simulated_seconds": 100.0 * (1 + trial), "bytes_up": 400_000 * (1 + trial)}
        row["values"] |= {"algorithm.name": HOSTILE if trial == 3 else "fedavg", HOSTILE: trial}
        if (trial, seed) == (1, 3):
            row |= {"status": "failed", "error": HOSTILE, "metrics": {}, "rounds": 0, "epsilon": {}}
        found.append(row | ({"status": "pruned"} if trial == 0 and seed > 2 else {}))
    return found
