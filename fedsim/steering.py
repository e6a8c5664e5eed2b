"""Settings by which a run follows its test loss, so that what it releases depends on the test records."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.scenario import Scenario

STEERED = (
    "the test loss here is that of the clients' own held-out records (evaluation.test, evaluation.folds, or a source "
    "that holds out a part of every natural owner's), and a model that follows it would tell of them outside [privacy]"
)


def steered(scenario: Scenario) -> Iterator[str]:
    """Why the run may not follow the clients' own test records, a line for each setting by which it does."""
    # Metrics are released beside the models and said to be uncovered; the models themselves must not depend on them.
    if scenario.evaluation.early_stopping is not None:
        yield "evaluation.early_stopping: " + STEERED
    if scenario.algorithm.local.schedule.kind == "plateau":
        yield 'algorithm.local.schedule.kind = "plateau": ' + STEERED
