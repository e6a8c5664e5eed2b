"""TOML and JSON from files and messages of others, whose readers fail in ways of their own on what is made to harm."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedsim.errors import Damaged

MOST_LEVELS = 64
MOST_BITS = 1023  # of a whole number, so that it can be a float
MOST_CHARACTERS = 2**24
# The reader of TOML takes time with the square of a key's dots, so it must not see them.
LONG_KEY = re.compile(
    rf"""(?<![\w"'-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{MOST_LEVELS}}}""",
)


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text; raises ``ValueError`` that says what is wrong, also if it is too deep or long."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it has {len(text)} characters; at most {MOST_CHARACTERS} are read")
    key = LONG_KEY.search(text)
    if key is not None:
        line = text.count("\n", 0, key.start()) + 1
        raise ValueError(f"a name of more than {MOST_LEVELS} parts (at line {line})")
    tables: dict[str, Any] = _parsed(tomllib.loads, text)
    return tables


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text; raises ``ValueError`` that says what is wrong, also if it is too deep or long."""
    return _parsed(json.loads, text)


def read_text(file: Path) -> str:
    """A file of a run's record as text; raises ``Damaged`` that names it where it is not UTF-8."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Damaged(f"{file} is damaged: it is not UTF-8 text (byte {error.start}).") from error


def read_json(file: Path) -> Any:
    """The JSON in a file of a run's record; raises ``Damaged`` that names it where it holds none."""
    try:
        return parse_json(read_text(file))
    except ValueError as error:
        raise error if isinstance(error, Damaged) else Damaged(f"{file} is damaged: {error}.") from error


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The JSON objects in a file, one a line; raises ``Damaged`` that names the file and the line that is none."""
    rows = []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        try:
            rows.append(_table(parse_json(line)))
        except ValueError as error:
            raise Damaged(f"{file} is damaged: line {number}: {error}.") from error
    return rows


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _parsed(parse: Callable[[Any], Any], text: str | bytes) -> Any:
    try:
        value = parse(text)
    except RecursionError:
        raise ValueError(f"tables or lists more than {MOST_LEVELS} deep in each other") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:
        raise ValueError("a whole number with too many digits") from None
    if problem := excess(value):
        raise ValueError(problem)
    return value


def excess(value: Any) -> str | None:
    """What is too deep or too large in tables and lists to be worked with, if anything."""
    level, deep = [value], 0
    while level:
        if deep > MOST_LEVELS:
            return f"tables or lists more than {MOST_LEVELS} deep in each other"
        if any(isinstance(each, int) and each.bit_length() > MOST_BITS for each in level):
            return "a whole number with too many digits"
        level = [inner for each in level for inner in _inside(each)]
        deep += 1
    return None


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
