"""Impossible combinations of aggregators and strategies with the rest of a scenario, one line each."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.aggregation.fltrust import FLTrust
from fedsim.aggregation.norm_bound import NormBound
from fedsim.algorithms import Algorithm, ServerOptimizer
from fedsim.errors import BadInput
from fedsim.flower_strategy import make_strategy
from fedsim.params import Layout
from fedsim.scenario import Scenario


def check_aggregation(scenario: Scenario) -> Iterator[str]:
    """What the scenario's aggregator or strategy cannot be combined with."""
    algorithm, privacy = scenario.algorithm, scenario.privacy
    aggregation = algorithm.aggregation
    where = f'algorithm.aggregation.kind = "{aggregation.kind}"'
    if algorithm.stacks and privacy.client is not None and privacy.client.placement == "server":
        named = f'algorithm.strategy = "{algorithm.strategy}"' if algorithm.strategy else where
        yield (
            f"{named}: it needs every client's update by itself, and the noise that [privacy.client] adds at the "
            'server is calibrated for a sum of clipped updates; leave it out, or let placement = "client" noise each'
        )
    if isinstance(aggregation, NormBound) and privacy.client is not None:
        yield f"{where}: privacy.client.clip_norm bounds every update already; leave the aggregation out"
    if isinstance(aggregation, FLTrust) and scenario.evaluation.tests_clients:
        yield (
            f"{where}: its root records are taken from the test records and declared public, but here these are held "
            "back by the clients (evaluation.test, evaluation.folds); use the source's own test records"
        )
    yield from _strategy(scenario)


def _strategy(scenario: Scenario) -> Iterator[str]:
    algorithm = scenario.algorithm
    if algorithm.strategy is None:
        if algorithm.strategy_options:
            yield "algorithm.strategy_options: only used with algorithm.strategy"
        return
    where = f'algorithm.strategy = "{algorithm.strategy}"'
    if ":" not in algorithm.strategy:
        yield f'{where}: must be "package.module:Class", as "flwr.serverapp.strategy:FedAdam"'
    if algorithm.aggregation.kind != "mean":
        yield f'{where}: the strategy aggregates itself; leave out aggregation.kind = "{algorithm.aggregation.kind}"'
    if algorithm.server != ServerOptimizer():
        yield f"{where}: the strategy takes the server's step itself; leave out algorithm.server"


def check_least(scenario: Scenario, clients: int) -> Iterator[str]:
    """Cohorts of so many clients that are smaller than the aggregator needs."""
    aggregation = scenario.algorithm.aggregation
    expected = scenario.cohort.sampling.participation(clients) * clients
    if aggregation.least > 1 and expected < aggregation.least:
        yield (
            f'algorithm.aggregation.kind = "{aggregation.kind}": with these settings it needs at least '
            f"{aggregation.least} updates, and a cohort has {expected:g} clients"
        )


def check_reports(algorithm: Algorithm, layout: Layout) -> None:
    """Raise ``BadInput`` where a strategy cannot be built, or where clients report or keep more than it knows of."""
    own_state = algorithm.state_size(layout) > 0
    if isinstance(algorithm.aggregation, FLTrust) and own_state:
        raise BadInput(
            'algorithm.aggregation.kind = "fltrust": the clients of this algorithm.name keep a state of their '
            "own from round to round, which the server's root update does not have. Use another of the two."
        )
    if algorithm.strategy is None:
        return
    make_strategy(algorithm)
    if algorithm.report_size(layout) != layout.size or algorithm.memory_size(layout):
        raise BadInput(
            f'algorithm.strategy = "{algorithm.strategy}": the clients of this algorithm.name report more than their '
            "models, or the server keeps more, which Flower's strategies do not know. Use fedavg."
        )
