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
            near = difflib.get_close_matches(pattern, list(names), n=SHOWN, cutoff=0.5) or list(names)
            raise BadInput(f'{key} = "{pattern}" matches nothing; the nearest names are: {listed(near) or "none"}.')
    return set().union(*found.values())


def listed(names: Collection[str]) -> str:
    """The first few names, and how many more there are."""
    shown = ", ".join(list(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
