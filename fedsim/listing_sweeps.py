"""What a sweep file may say: ``fedsim list sweep``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from fedsim.sweeps.settings import Halving, Search, SweepFile
from fedsim.sweeps.space import Range

PARTS = {"a sweep file": SweepFile, "[sweep]": Search, "[sweep.halving]": Halving, "[space]": Range}
SPACE = """\
A line for each setting that varies, by its dotted key: a list of choices, or a range such as
  privacy.example.target_epsilon = [1.0, 4.0, inf]                           # inf: without privacy
  algorithm.local.learning_rate = { low = 0.01, high = 1.0, log = true }
"""
FOOT = "fedsim check FILE checks a sweep without running it; fedsim sweep FILE runs it."


def names() -> set[str]:
    """What the page on sweep files is found by: its parts, and every key of theirs."""
    inside = {f"sweep.{field.name}" for part in (Search, SweepFile) for field in dataclasses.fields(part)}
    deeper = {f"sweep.halving.{field.name}" for field in dataclasses.fields(Halving)}
    return {"sweep", "space", "halving"} | inside | deeper


def sweep_text(about: Callable[[type], str], settings: Callable[[type], list[str]]) -> str:
    """The whole page; ``about`` and ``settings`` describe a dataclass in words and as a table."""
    return "\n".join([*_parts(about, settings), FOOT])


def _parts(about: Callable[[type], str], settings: Callable[[type], list[str]]) -> Iterator[str]:
    for name, part in PARTS.items():
        yield name
        yield (SPACE if part is Range else "") + about(part)
        yield from settings(part)
