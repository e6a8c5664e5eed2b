"""Settings of ``[communication]`` that cannot work, or under which a privacy guarantee would not hold."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.privacy.sampling import Fixed
from fedsim.scenario import Scenario


def check_communication(scenario: Scenario) -> Iterator[str]:
    """Every impossible combination with ``[communication]``, one line each, with the dotted path."""
    settings, client = scenario.communication, scenario.privacy.client
    where, compression = "communication.error_feedback = true", settings.compression
    if not settings.error_feedback:
        return
    if not settings.compresses:
        yield f'{where}: nothing is lost with communication.compression.kind = "none"; leave it out'
    elif not compression.contracts:
        biased = {"random_k": "unbiased = false", "int8": 'rounding = "nearest"'}.get(compression.kind)
        yield (
            f'{where}: as set, compression.kind = "{compression.kind}" is right on average and may lose more than the '
            "update is long, so what is lost would grow from round to round; "
            + (f"set communication.compression.{biased}" if biased else "use top_k or sign")
            + ", or leave error feedback out"
        )
    fixed = isinstance(scenario.cohort.sampling, Fixed)
    if client is not None and client.placement == "server" and fixed and client.relation == "replace-one":
        yield (
            f"{where}: what a client has lost tells in which rounds it took part; in a cohort of fixed size that tells "
            "who else did, which the amplification by sampling in [privacy.client] counts as secret; use "
            'cohort.sampling.kind = "poisson", or privacy.client.relation = "zero-out"'
        )
