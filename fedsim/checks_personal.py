"""Settings of personalised runs that cannot work: nothing to test the clients' own models on, nothing to aggregate."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.aggregation.mean import Mean
from fedsim.algorithms.local import Local
from fedsim.algorithms.personal import PrivateParameters
from fedsim.scenario import Scenario

STANDS_STILL = 'with algorithm.name = "local" the global model, whose test loss this follows, never changes'


def personal_problems(scenario: Scenario) -> Iterator[str]:
    """Why a personalised run cannot work, a line each."""
    algorithm, evaluation = scenario.algorithm, scenario.evaluation
    if not algorithm.personalises:
        return
    name = getattr(algorithm, "name", type(algorithm).__name__)
    if not evaluation.tests_clients:
        yield (
            f'algorithm.name = "{name}": every client\'s own model is tested on records of that client; set '
            'evaluation.test = { kind = "per_client" }, or evaluation.folds'
        )
    if isinstance(algorithm, PrivateParameters) and scenario.asynchronous is not None:
        yield (
            f'asynchronous.kind = "{scenario.asynchronous.kind}": its server adds up whole models, and with '
            f'algorithm.name = "{name}" clients send only a part of theirs; leave [asynchronous] out'
        )
    if isinstance(algorithm, Local):
        yield from _alone(scenario)


def _alone(scenario: Scenario) -> Iterator[str]:
    """What needs clients that send something, or a global model that changes."""
    algorithm, evaluation = scenario.algorithm, scenario.evaluation
    if not isinstance(algorithm.aggregation, Mean):
        yield f'algorithm.aggregation.kind = "{algorithm.aggregation.kind}": "local" sends nothing to aggregate'
    if evaluation.early_stopping is not None:
        yield f"evaluation.early_stopping: {STANDS_STILL}"
    if algorithm.local.schedule.kind == "plateau":
        yield f'algorithm.local.schedule.kind = "plateau": {STANDS_STILL}'
    if scenario.communication.compresses:
        kind = scenario.communication.compression.kind
        yield f'communication.compression.kind = "{kind}": "local" sends nothing to compress'
    if scenario.attack is not None:
        yield f'attack.kind = "{scenario.attack.kind}": with algorithm.name = "local" no client reaches another'
