"""What an algorithm cannot do as it is set up, or with the privacy that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedsim.privacy.sampling import Fixed

if TYPE_CHECKING:
    from fedsim.scenario import Scenario


def algorithm_problems(scenario: Scenario) -> Iterator[str]:
    """One line for each unit of privacy that the algorithm refuses, and for each of its own objections."""
    algorithm, privacy = scenario.algorithm, scenario.privacy
    for unit, settings, reason in (
        ("example", privacy.example, algorithm.refuses_example_level),
        ("client", privacy.client, algorithm.refuses_client_level),
    ):
        if settings is not None and reason is not None:
            yield f'algorithm.name = "{algorithm.name}": not with [privacy.{unit}]: {reason}'
    yield from algorithm.objections(privacy.client is not None)
    client, fixed = privacy.client, isinstance(scenario.cohort.sampling, Fixed)
    remembers = algorithm.has_state and algorithm.reports_follow_state
    if remembers and client is not None and client.relation == "replace-one" and fixed:
        yield (
            f'algorithm.name = "{algorithm.name}": what a client remembers tells in which rounds it took part; in a '
            "cohort of fixed size that tells who else did, which the amplification by sampling in [privacy.client] "
            'counts as secret; use cohort.sampling.kind = "poisson", or privacy.client.relation = "zero-out"'
        )
