"""Mistakes that are certain from the given values alone, whatever else is wrong in a scenario file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from typing import Any

from fedsim.optimizers import ELEMENTWISE, optimizer_classes


def certain_problems(raw: dict[str, Any]) -> Iterator[str]:
    """Optimizers that do not exist, and noise given twice, one line each, with the dotted path."""
    for path, valid in (("algorithm.local", list(ELEMENTWISE)), ("algorithm.server", sorted(optimizer_classes()))):
        name = _table(raw, path).get("optimizer")
        if isinstance(name, str) and name not in valid:
            yield unknown_optimizer(path, name, valid)
    for path in ("privacy.example", "privacy.client"):
        if {"noise_multiplier", "target_epsilon"} <= _table(raw, path).keys():
            yield one_noise(path)


def without_attack(raw: dict[str, Any]) -> dict[str, Any]:
    """The tables without ``[attack]`` where its kind is "none", whatever else it says: the baseline of an attack."""
    if _table(raw, "attack").get("kind") != "none":
        return raw
    return {key: value for key, value in raw.items() if key != "attack"}


def unknown_optimizer(path: str, name: str, valid: list[str]) -> str:
    """The line on an optimizer that does not exist, with the nearest name."""
    near = difflib.get_close_matches(name, valid, n=1)
    hint = f'did you mean "{near[0]}"?' if near else f"valid: {', '.join(valid)}"
    return f'{path}.optimizer = "{name}": unknown optimizer ({hint})'


def one_noise(path: str) -> str:
    """The line on noise that is given twice or not at all."""
    return f"{path}: give exactly one of noise_multiplier and target_epsilon"


def _table(raw: Any, path: str) -> dict[str, Any]:
    """The table at a dotted path; empty where there is none."""
    for step in path.split("."):
        raw = raw.get(step) if isinstance(raw, dict) else None
    return raw if isinstance(raw, dict) else {}


def finite(path: str, value: Any) -> Iterator[str]:
    """NaN and infinity in tables of free form; elsewhere the fields' types refuse them."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{path} = {value}: must be a finite number"
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from finite(f"{path}.{key}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from finite(f"{path}[{number}]", item)
