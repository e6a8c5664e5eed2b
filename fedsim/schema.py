"""What may stand where in a scenario file: pydantic's validator, and questions to its JSON schema."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from fedsim.scenario import Scenario


@cache
def adapter() -> TypeAdapter[Scenario]:
    """Pydantic's validator for scenarios."""
    return TypeAdapter(Scenario)


def holds(value: Any, step: str | int) -> bool:
    """Whether there is something in a table or a list at a step."""
    if isinstance(value, list):
        return isinstance(step, int) and step < len(value)
    return isinstance(value, dict) and step in value


@cache
def _schema() -> dict[str, Any]:
    """The JSON schema, made once: that takes longer than anything else here."""
    return adapter().json_schema()


def fields_of(loc: Sequence[str | int], raw: dict[str, Any]) -> list[str]:
    """Valid keys of the section at ``loc``, read off the JSON schema."""
    return list(_node(loc, raw).get("properties", {}))


def json_type(key: str, raw: dict[str, Any]) -> str | None:
    """What JSON calls the type of the setting at a dotted key, such as "integer"; None where it can be several."""
    return _node(key.split("."), raw).get("type")


def _node(steps: Sequence[str | int], raw: dict[str, Any]) -> dict[str, Any]:
    """The schema of what stands at the end of ``steps`` into a file, or could."""
    schema = _schema()
    node: dict[str, Any] = schema
    value: Any = raw
    for step in steps:
        value = value[step] if holds(value, step) else {}
        node = _resolve(schema, node, step, value)
    return node


def _resolve(schema: dict[str, Any], node: dict[str, Any], step: str | int, value: Any) -> dict[str, Any]:
    """The schema below ``step``, references followed; of several alternatives the one that fits the value."""
    child = node.get("items", {}) if isinstance(step, int) else node.get("properties", {}).get(step, {})
    options = child.get("oneOf") or child.get("anyOf") or [child]
    options = [inner for option in options for inner in option.get("oneOf", [option])]  # a choice that may be left out
    definitions = schema["$defs"]
    followed: list[dict[str, Any]] = [
        definitions[option["$ref"].split("/")[-1]] if "$ref" in option else option for option in options
    ]
    fitting = [option for option in followed if _fits(option, value)]
    return (fitting or followed)[0]


def _fits(option: dict[str, Any], value: Any) -> bool:
    if option.get("type") == "array":
        return isinstance(value, list)
    properties = option.get("properties")
    if properties is None or not isinstance(value, dict):
        return False
    constants = {key: spec["const"] for key, spec in properties.items() if "const" in spec}
    return all(value.get(key) == constant for key, constant in constants.items())
