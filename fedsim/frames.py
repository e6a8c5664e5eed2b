"""Tables for notebooks: pandas is an extra, and nothing else in fedsim needs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from fedsim.extras import missing


def frame(rows: Sequence[dict[str, Any]]) -> Any:
    """A ``pandas.DataFrame`` of records, infinity as a number; raises ``BadInput`` without pandas."""
    try:
        import pandas
    except ImportError as error:
        raise missing("to_frame()", "pandas", "tracking") from error
    return pandas.DataFrame([{name: numeric(value) for name, value in row.items()} for row in rows])


def numeric(value: Any) -> Any:
    """Infinity as the number that it stands for where JSON has a string."""
    return float(value) if value in ("inf", "-inf") and isinstance(value, str) else value


def flattened(value: Any, key: str, joint: str = ".") -> Iterator[tuple[str, Any]]:
    """The parts of nested values, each under the joined names on the way to it.

    A list's objects are called by their unit, else by their number; another list is one part.
    """
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        value = {str(each.get("unit", number)): each for number, each in enumerate(value)}
    if isinstance(value, dict):
        for name, part in value.items():
            yield from flattened(part, f"{key}{joint}{name}" if key else str(name), joint)
    else:
        yield key, value


def swept_row(row: dict[str, Any]) -> dict[str, Any]:
    """A run of a sweep as one record: its values and metrics under their own names, others as "epsilon_example"."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= (value or {}) if name in ("values", "metrics") else dict(flattened(value, name, "_"))
    return found


def html_lines(text: str) -> str:
    """Plain text as a notebook shows it."""
    return f"<pre>{escape(text)}</pre>"
