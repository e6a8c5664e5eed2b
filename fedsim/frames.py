"""Tables for notebooks: pandas is an extra, and nothing else in fedsim needs it."""

from __future__ import annotations

from collections.abc import Sequence
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


def html_lines(text: str) -> str:
    """Plain text as a notebook shows it."""
    return f"<pre>{escape(text)}</pre>"
