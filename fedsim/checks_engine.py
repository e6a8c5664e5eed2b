"""Settings of the engine that cannot work together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedsim.scenario import EngineSettings


def engine_problems(engine: EngineSettings) -> Iterator[str]:
    """What is wrong with ``[engine]``, one line each."""
    if engine.kind != "ray":
        for key in ("address", "resources"):
            if getattr(engine, key) is not None:
                yield f'engine.{key}: only used with engine.kind = "ray"'
        return
    if engine.address is not None:
        yield from _address(engine.address)
    for key in ("cpu", "gpu"):
        amount = getattr(engine.actor, key)
        if amount > 1 and amount != int(amount):
            yield f"engine.resources.{key} = {amount}: Ray shares one among actors, but gives several as a whole number"
    if engine.device == "cuda" and not engine.actor.gpu:
        yield 'engine.device = "cuda": Ray actors see no GPU unless engine.resources gives them one, as { gpu = 1 }'


def _address(address: str) -> Iterator[str]:
    host, colon, port = address.rpartition(":")
    if address != "auto" and not (host and colon and port.isdigit() and "/" not in host):
        yield f'engine.address = "{address}": must be "auto" or host:port of the cluster, as ray start prints it'
