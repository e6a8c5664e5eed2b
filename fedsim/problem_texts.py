"""How a mistake in a scenario file is put into words: paths, values, and the nearest valid name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def dotted(location: Sequence[str | int]) -> str:
    """The path of a value as one writes it: ``data.features[2].kind``."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def show(value: Any) -> str:
    """A value in at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def nearest(name: str, valid: list[str]) -> str:
    """The valid name that is most like a wrong one, or all of them; nothing where there are none."""
    matches = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if matches:
        return f' (did you mean "{matches[0]}"?)'
    return f" (valid: {', '.join(valid)})" if valid else ""


def must_be_table(value: Any, context: Mapping[str, str]) -> str:
    """What to write in place of a value that is no table: the choice of that name, where there is one."""
    key, names = context["key"], context["names"].split(", ")
    text = f"must be a table with the key {key}"
    return f'{text}: {{ {key} = "{value}" }}' if isinstance(value, str) and value in names else text
