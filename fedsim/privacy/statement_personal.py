"""What the privacy statement says of clients' own models."""

from __future__ import annotations

from collections.abc import Iterator

from fedsim.federation import Federation


def personal_assumptions(federation: Federation) -> Iterator[str]:
    """What the guarantee covers where clients have models of their own."""
    if federation.scenario.algorithm.personalises:
        yield (
            "The guarantee is for what clients send and for the global models. A client's own model, or the private "
            "part of it, stays with the client: it is not released, and whoever got it could learn of that client's "
            "records."
        )


def personal_outside(federation: Federation) -> Iterator[str]:
    """What is released of clients' own models."""
    if federation.personalises:
        yield (
            "How good the clients' own models are on the records that they hold back is released without noise. It "
            "tells of those records, and of those that the models were trained on: no guarantee covers it."
        )
