"""Parameters and layers named in a scenario, with wildcards."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from fnmatch import fnmatchcase

from fedsim.errors import BadInput

SHOWN = 8


def matching(key: str, patterns: Collection[str], names: Collection[str]) -> set[str]:
    """The names that any of the patterns matches; raises ``BadInput`` if one of the patterns matches none."""
    found = {pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns}
    for pattern in patterns:
        if not found[pattern]:
            near = [name for name in names if _likeness(pattern, name) > 0.6] or names
            raise BadInput(f'{key} = "{pattern}" matches nothing; the nearest names are: {listed(near) or "none"}.')
    return set().union(*found.values())


def _likeness(pattern: str, name: str) -> float:
    """From 0 to 1, of the pattern and the first characters of the name."""
    return difflib.SequenceMatcher(None, pattern, name[: len(pattern)]).ratio()


def listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
