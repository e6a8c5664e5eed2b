"""The same numbers again: from other global generators, in another order, on other blocks, threads and nodes."""

from __future__ import annotations

from pathlib import Path

from fedsim.errors import BadInput
from fedsim.federation import Federation, build_federation
from fedsim.loading import parse_scenario
from tests.conformance.axes import TEXT, Choice, overrides_of
from tests.conformance.guard import seeded
from tests.conformance.playing import Nodes, Permuted, Played, play

ONE_BY_ONE = ("engine.memory_gib=1e-9", "engine.workers=2")

# How far a run may be from the plain one: the largest difference of a parameter, in units of the largest parameter.
# 0 is bit for bit, with every number of the record. By trainer:
#
# * "order": the same again in the same blocks, asked in another order, after other global seeds.
# * "blocks": each client in a block of its own, on two threads; what is set up, too, comes after other global seeds.
# * "nodes": on three nodes that each add up their clients' reports and answer in another order; clients' state travels.
#
# A client's update has the same bits wherever "native" and "opacus" train it, and one process adds up in an order of
# its own. Nodes' sums in float64 are added up in another order, which a float32 model shows once in 10^8 roundings.
# "vectorised" multiplies matrices of all clients of a block at once, whose last bits depend on how many there are.
TOLERANCE = {
    "native": {"order": 0.0, "blocks": 0.0, "nodes": 1e-6},
    "opacus": {"order": 0.0, "blocks": 0.0, "nodes": 1e-6},
    "vectorised": {"order": 0.0, "blocks": 1e-5, "nodes": 1e-5},
}


def check_same(folder: Path, *choices: Choice) -> str | None:
    """Run two rounds in each of these ways and compare; or why the choices are refused together."""
    overrides = [*overrides_of(*choices), "rounds=2"]
    try:
        federation = built(overrides)
        with seeded(1):
            alone = built([*overrides, *ONE_BY_ONE])
    except BadInput as error:
        return str(error)
    plain = play(federation, folder / "plain")
    with seeded(2):
        ways = {
            "order": play(federation, folder / "order", Permuted),
            "blocks": play(alone, folder / "blocks", Permuted),
            "nodes": play(federation, folder / "nodes", Nodes),
        }
    for way, found in ways.items():
        if federation.plan.randomness == "secure":
            assert found.params.ne(plain.params).any(), "secure randomness was repeated"
            continue
        check(found, plain, TOLERANCE[federation.trainer_name][way], way)
    return None


def built(overrides: list[str]) -> Federation:
    """The small scenario's federation."""
    return build_federation(parse_scenario(TEXT, "same", overrides))


def check(found: Played, expected: Played, tolerance: float, way: str) -> None:
    """Compare models and records; what is drawn, counted and spent is the same in any case."""
    if tolerance == 0:
        assert found.digest == expected.digest, f"{way}: by {found.distance(expected):.1e}"
        return
    assert found.distance(expected) <= tolerance, way
    for row, other in zip(found.rows, expected.rows, strict=True):
        for key in ("round", "cohort", "dropped", "bytes_up", "bytes_down", "epsilon_example", "epsilon_client"):
            assert row[key] == other[key], (way, key)
