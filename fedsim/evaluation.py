"""Metrics of a model on held-out records: over all of them, over clients, and of clients that never train."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedsim.directions import more_is_better
from fedsim.federation import Federation
from fedsim.holdings import client_names
from fedsim.params import bind_vector
from fedsim.population import Population
from fedsim.population.statistics import SHOWN_CLIENTS
from fedsim.tasks import Objective, Task
from fedsim.tasks.task import Assessment

# The share of an attack's probe that the model calls what the attacker wants.
ATTACK_SUCCESS = "attack_success"

# What says in a metric's name that it is of the clients' own models.
PERSONAL = "_personal"


def compared(objective: Objective) -> str:
    """The metric that is compared over clients."""
    return objective.client_metric or objective.main_metric


def tail(metric: str) -> str:
    """The name of the value that a tenth of the clients do no better than: the 10th percentile, or the 90th."""
    return f"{metric}_p10" if more_is_better(metric) else f"{metric}_p90"


def better(metric: str) -> int:
    """1 if more of a metric is better, -1 if less is."""
    return 1 if more_is_better(metric) else -1


def spread(metric: str, values: NDArray[np.float64], of: str = "") -> dict[str, float]:
    """Mean, bad tail and worst of a metric's values of some clients; the percentile is interpolated linearly.

    ``of`` comes into their names, between the metric's and what follows it.
    """
    sign, low = better(metric), tail(metric).removeprefix(metric)
    return {
        f"{metric}{of}_mean": float(values.mean()),
        f"{metric}{of}{low}": sign * float(np.percentile(sign * values, 10)),
        f"{metric}{of}_worst": sign * float((sign * values).min()),
    }


def metric_names(federation: Federation) -> tuple[str, ...]:
    """The metrics in every round's line."""
    objective = federation.task.objective
    names, main = objective.metric_names, compared(objective)
    one = np.zeros(1)
    over_clients = tuple(spread(main, one)) if federation.holdings.held_back else ()
    over_clients += tuple(spread(main, one, PERSONAL)) if federation.personalises else ()
    unseen = tuple(f"{name}_unseen" for name in names) if federation.unseen else ()
    attack = (ATTACK_SUCCESS,) if federation.probe else ()
    return (*names, *over_clients, *unseen, *attack)


def evaluate(federation: Federation, params: Tensor) -> dict[str, float]:
    """All metrics of the model with these parameters."""
    remote = federation.holdings.remote
    if remote is not None and remote.tests:
        return remote.evaluate(federation, params)
    task, measured = _measured(federation, params)
    labels = task.objective.labels(task.data.test)
    return task.objective.metrics(measured, labels) | _beside(federation, measured)


def assess(federation: Federation, params: Tensor) -> Assessment:
    """All metrics of the final model, and what else is said about it."""
    remote = federation.holdings.remote
    if remote is not None and remote.tests:
        return Assessment(remote.evaluate(federation, params))
    task, measured = _measured(federation, params)
    labels = task.objective.labels(task.data.test)
    assessment = task.objective.assess(measured, labels, task.data.names)
    return Assessment(assessment.metrics | _beside(federation, measured), assessment.tables)


def _measured(federation: Federation, params: Tensor) -> tuple[Task, NDArray[np.float64]]:
    """What is measured of each test example, and the task it is of.

    The trainer's model and task leave frozen first layers out: what they make of the examples is known.
    """
    bind_vector(federation.module, params)
    return federation.trainer.task, federation.trainer.task.measure(federation.trainer.module)


def _beside(federation: Federation, measured: NDArray[np.float64]) -> dict[str, float]:
    """The metrics over clients and those of unseen clients, where the scenario asks for them."""
    task, held_back = federation.trainer.task, federation.holdings.held_back
    labels = task.objective.labels(task.data.test)
    found = {} if held_back is None else over_clients(task.objective, measured, labels, held_back)
    return found | _unseen(federation) | _attack_success(federation)


def over_clients(
    objective: Objective, measured: NDArray[np.float64], labels: NDArray[Any], held_back: Population
) -> dict[str, float]:
    """Mean, bad tail and worst over clients of the main metric of each, from what ``measure`` gave ``[n, values]``.

    Clients that hold nothing back are left out.
    """
    return spread(compared(objective), by_client(objective, measured, labels, held_back))


def client_metrics(
    federation: Federation, params: Tensor, personal: NDArray[np.float64] | None = None
) -> dict[str, Any] | None:
    """The compared metric of every client on what it holds back; None where none does, or where they are many.

    ``personal`` are the values of the tested clients' own models, where they have any.
    """
    held_back, remote = federation.holdings.held_back, federation.holdings.remote
    if remote is not None and remote.tests and len(remote.names) <= SHOWN_CLIENTS:
        return remote.by_client(federation)
    if held_back is None or len(held_back) > SHOWN_CLIENTS:
        return None
    columns = {"value": client_values(federation, params)} | ({} if personal is None else {"personal": personal})
    values = {name: iter(column.tolist()) for name, column in columns.items()}
    names = client_names(federation.scenario, federation.holdings, len(held_back))
    return {
        "metric": compared(federation.task.objective),
        "clients": [
            {"client": name, "test_records": size} | {key: next(of) if size else None for key, of in values.items()}
            for name, size in zip(names, held_back.sizes.tolist(), strict=True)
        ],
    }


def client_values(federation: Federation, params: Tensor) -> NDArray[np.float64]:
    """The compared metric of a model at each client that holds something back."""
    held_back, (task, measured) = federation.holdings.held_back, _measured(federation, params)
    assert held_back is not None
    return by_client(task.objective, measured, task.objective.labels(task.data.test), held_back)


def by_client(
    objective: Objective, measured: NDArray[np.float64], labels: NDArray[Any], held_back: Population
) -> NDArray[np.float64]:
    """The compared metric of each client that holds something back, from what ``measure`` gave ``[n, values]``."""
    values = [
        objective.metrics(measured[start:end], labels[start:end])[compared(objective)]
        for start, end in pairwise(held_back.offsets.tolist())
        if end > start
    ]
    return np.array(values)


def _unseen(federation: Federation) -> dict[str, float]:
    if federation.unseen is None:
        return {}
    return {f"{name}_unseen": value for name, value in federation.unseen.evaluate(federation.module).items()}


def _attack_success(federation: Federation) -> dict[str, float]:
    if federation.probe is None:
        return {}
    return {ATTACK_SUCCESS: federation.probe.evaluate(federation.module)["accuracy"]}
