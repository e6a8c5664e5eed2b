"""Units of privacy that an algorithm cannot have."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.scenario import Scenario


def algorithm_problems(scenario: Scenario) -> Iterator[str]:
    """Why the scenario's algorithm cannot run with its privacy, a line each."""
    algorithm, privacy = scenario.algorithm, scenario.privacy
    name = getattr(algorithm, "name", type(algorithm).__name__)
    if privacy.example is not None and algorithm.refuses_example_level is not None:
        yield f'algorithm.name = "{name}": not with [privacy.example]: {algorithm.refuses_example_level}'
    if privacy.client is not None and algorithm.refuses_client_level is not None:
        yield f'algorithm.name = "{name}": not with [privacy.client]: {algorithm.refuses_client_level}'
