"""Short runs of every kind that remembers something: what is killed, and what the resumed run is compared by."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import fedsim
from fedsim.scenario import Scenario
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL

BOTH = EXAMPLE_PRIVACY + CLIENT_PRIVACY
POISSON = 'cohort.sampling={kind="poisson", rate=0.6}'
SELDOM = 'cohort.sampling={kind="poisson", rate=0.3}'  # so that some spend more than others
ADAPTIVE = 'privacy.client.clipping={kind="adaptive", quantile=0.5, learning_rate=0.3}'
CYCLIC = 'cohort.sampling={kind="cyclic", groups=3}'
DROPOUT = "dropout={before_upload=0.2, after_upload=0.3}"
DEVICES = f'devices={{compute={{kind="lognormal", median=20, sigma=1.5}}, {DROPOUT}}}'
FEDBUFF = 'asynchronous={kind="fedbuff", buffer_size=3, concurrency=5}'
FEEDBACK = ('communication.compression={kind="top_k", share=0.05}', "communication.error_feedback=true")
STOPPING = "evaluation.early_stopping={patience=1}"
FLOWER = 'algorithm.strategy="flwr.serverapp.strategy:FedAdam"'

# The text of the scenario beside SMALL, and what is set in it.
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "example": (EXAMPLE_PRIVACY, (POISSON,)),
    "budget": (EXAMPLE_PRIVACY + "sampling_rate = 0.2\nbudget = 3.44\n", (SELDOM, "rounds=12", "seed=5")),
    "adaptive": (CLIENT_PRIVACY, (POISSON, ADAPTIVE)),
    "both": (BOTH, (POISSON, 'algorithm.server={optimizer="adam", learning_rate=0.1}')),
    "local": (CLIENT_PRIVACY + 'placement = "client"\n', (POISSON,)),
    "banded": (CLIENT_PRIVACY, ('privacy.client.mechanism="banded"', "privacy.client.bands=2", CYCLIC, "rounds=6")),
    "tree": (CLIENT_PRIVACY, ('privacy.client.mechanism="tree"', CYCLIC, "rounds=3")),
    "scaffold": (EXAMPLE_PRIVACY, ("algorithm.name=scaffold", POISSON)),
    "ditto": (BOTH, ("algorithm.name=ditto", 'evaluation.test={kind="per_client"}', POISSON)),
    "async": (BOTH, ("population.clients=12", DEVICES, FEDBUFF, "rounds=5")),
    "devices": ("", ("algorithm.name=scaffold", DEVICES, 'cohort.sampling={kind="fixed", size=4}', "rounds=4")),
    "compressed": ("", (*FEEDBACK, POISSON)),
    "robust": ("", ('algorithm.aggregation={kind="centred_clipping"}', POISSON)),
    "flower": ("", (FLOWER, "algorithm.strategy_options={eta=0.02}", POISSON)),
    "stopping": (EXAMPLE_PRIVACY, ("rounds=9", STOPPING, "algorithm.local.learning_rate=9.0")),
    "folds": (EXAMPLE_PRIVACY, ("evaluation.folds=2", "rounds=2", POISSON)),
    "secure": (BOTH, (POISSON, 'privacy.randomness="secure"')),
    "secure tree": (CLIENT_PRIVACY, ('privacy.client.mechanism="tree"', CYCLIC, 'privacy.randomness="secure"')),
}


def scenario_of(kind: str, *overrides: str) -> Scenario:
    """The scenario of a kind."""
    text, chosen = KINDS[kind]
    return fedsim.parse_scenario(SMALL + text, "small", (*chosen, *overrides))


def charges(ledger: Path) -> list[tuple[Any, ...]]:
    """What a ledger holds beside the names of runs, which are drawn."""
    db = sqlite3.connect(ledger)
    columns = "round, unit, noise_multiplier, rate, sampling, relation, count, clients"
    rows = db.execute(f"SELECT {columns} FROM charges").fetchall()
    db.close()
    return sorted(rows, key=repr)


def record(run: Path) -> dict[str, Any]:
    """All that two runs of one scenario share, by file."""
    found: dict[str, Any] = {"files": sorted(str(file.relative_to(run)) for file in run.rglob("*"))}
    for file in run.rglob("*"):
        name = str(file.relative_to(run))
        if file.name == "ledger.db":
            found[name] = charges(file)
        elif file.name == "summary.json":
            found[name] = _without(json.loads(file.read_text()), "seconds", "memory")
        elif file.name == "rounds.jsonl":
            found[name] = [_without(json.loads(line), "seconds") for line in file.read_text().splitlines()]
        elif file.name in ("model.safetensors", "cohorts.bin", "rows.f32", "clients.json", "scenario.toml"):
            found[name] = file.read_bytes()
    return found


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    """The names under which two records differ."""
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def assert_same(run: Path, whole: Path) -> None:
    """The two runs are the same, file by file."""
    assert differences(record(run), record(whole)) == []
