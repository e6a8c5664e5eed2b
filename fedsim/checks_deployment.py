"""What a deployment cannot do, found before anybody is asked."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.models import ModelOptions
from fedsim.scenario import Scenario


def deployment_problems(scenario: Scenario) -> Iterator[str]:
    """One line for each setting that only a simulation has, with the dotted path."""
    engine, evaluation, example = scenario.engine, scenario.evaluation, scenario.privacy.example
    if engine.kind != "deployment":
        if engine.deployment is not None:
            yield f'engine.deployment: is for engine.kind = "deployment", and this one is "{engine.kind}"'
        return
    if evaluation.tests_clients:
        yield "evaluation.test and evaluation.folds: a site decides itself which records it holds back (site.toml)"
    if evaluation.unseen_clients:
        yield f"evaluation.unseen_clients = {evaluation.unseen_clients}: every site that accepts takes part"
    yield from _simulated(scenario)
    if scenario.privacy.ledger is not None:
        yield "privacy.ledger: every site keeps a ledger of its own; a shared one is for simulations"
    if example is not None and example.noise == "common" and example.target_epsilon is not None:
        yield 'privacy.example.noise = "common": with a target_epsilon, a site would need to know the others\' sizes'
    if isinstance(scenario.model, ModelOptions) and scenario.model.initial is not None:
        yield "model.initial: a site opens no file that the server names; start from weights that the seed draws"
    if scenario.privacy.client is not None and scenario.privacy.client.projected is not None:
        yield "privacy.client.projected: real sites get the noise that protects them, not a projection"


def _simulated(scenario: Scenario) -> Iterator[str]:
    """Parts of a scenario that only play what real sites are, or that need the server to have records."""
    for name in ("attack", "devices", "asynchronous"):
        if getattr(scenario, name) is not None:
            yield f"[{name}]: is for simulations; real sites are what they are"
    algorithm = scenario.algorithm
    if algorithm.strategy is not None:
        yield "algorithm.strategy: with real sites the server combines the updates itself; leave it out"
    if algorithm.aggregation.compares_with == "root":
        yield f'algorithm.aggregation.kind = "{algorithm.aggregation.kind}": the server has no records of its own here'
    if algorithm.personalises:
        yield f'algorithm.name = "{algorithm.name}": models of the clients\' own are tested in simulations alone'
