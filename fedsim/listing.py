"""The tables of names that a scenario may use, and the settings of each entry: ``fedsim list``."""

from __future__ import annotations

import dataclasses
import difflib
import json
from typing import Any

from pydantic import TypeAdapter

from fedsim.aggregation import AGGREGATORS
from fedsim.algorithms import ALGORITHMS
from fedsim.asynchronous import ASYNCHRONOUS, STALENESS
from fedsim.attacks import ATTACKS
from fedsim.communication import COMPRESSIONS
from fedsim.data import SOURCES
from fedsim.data.columns import COLUMNS
from fedsim.data.scaling import SCALINGS
from fedsim.data.synthetic import PROBLEMS
from fedsim.devices import AVAILABILITIES, BANDWIDTHS, SPEEDS
from fedsim.errors import BadInput
from fedsim.listing_sections import section_at
from fedsim.listing_sweeps import names, sweep_text
from fedsim.models import MODELS
from fedsim.optimizers import ELEMENTWISE, optimizer_classes
from fedsim.population import PARTITIONS
from fedsim.population.held_out import TEST_DATA
from fedsim.privacy.clip_settings import CLIENT_CLIPPING, EXAMPLE_CLIPPING
from fedsim.privacy.sampling import SAMPLINGS
from fedsim.schedules import SCHEDULES
from fedsim.tasks import TASKS
from fedsim.training import TRAINERS

TABLES: dict[str, dict[str, Any]] = {
    "data.source": dict(SOURCES),
    "data.features.kind": dict(COLUMNS),
    "data.scaling.kind": dict(SCALINGS),
    "data.problem.kind": dict(PROBLEMS),
    "population.partition.kind": dict(PARTITIONS),
    "task.kind": dict(TASKS),
    "model.name": dict(MODELS),
    "algorithm.name": dict(ALGORITHMS),
    "algorithm.aggregation.kind": dict(AGGREGATORS),
    "algorithm.local.schedule.kind": dict(SCHEDULES),
    "cohort.sampling.kind": dict(SAMPLINGS),
    "communication.compression.kind": dict(COMPRESSIONS),
    "attack.kind": dict(ATTACKS),
    "devices.compute.kind": dict(SPEEDS),
    "devices.upload.kind": dict(BANDWIDTHS),
    "devices.download.kind": dict(BANDWIDTHS),
    "devices.availability.kind": dict(AVAILABILITIES),
    "asynchronous.kind": dict(ASYNCHRONOUS),
    "asynchronous.staleness.kind": dict(STALENESS),
    "privacy.example.clipping.kind": dict(EXAMPLE_CLIPPING),
    "privacy.client.clipping.kind": dict(CLIENT_CLIPPING),
    "evaluation.test.kind": dict(TEST_DATA),
    "engine.trainer": dict(TRAINERS),
}
BOUNDS = {"exclusiveMinimum": "> {}", "minimum": ">= {}", "exclusiveMaximum": "< {}", "maximum": "<= {}"}


def tables_text() -> str:
    """Every table, with the first line of what each entry is."""
    lines = []
    for key, table in TABLES.items():
        lines += [key, *(f"  {name:<18} {_about(entry).splitlines()[0]}" for name, entry in table.items())]
    lines += ["algorithm.local.optimizer", f"  {', '.join(ELEMENTWISE)}"]
    lines += ["algorithm.server.optimizer", f"  {', '.join(sorted(optimizer_classes()))}"]
    return "\n".join([*lines, "A sweep file has its own keys: fedsim list sweep"])


def _about(entry: Any) -> str:
    return (entry.__doc__ or "").strip()


def _words(entry: Any) -> str:
    """The whole docstring as text."""
    return " ".join(_about(entry).split()).replace("``", "")


def entry_text(wanted: str) -> str:
    """What ``wanted`` is, such as ``lstm``, ``model.name.lstm``, the section ``devices`` or ``sweep``, by its settings.

    Raises ``BadInput`` when there is no such entry, or more than one.
    """
    if wanted in names():
        return sweep_text(_words, lambda part: _columns(_settings(part, "")))
    found = section_text(wanted)
    if found is not None:
        return found
    key, name = _find(wanted)
    entry = TABLES[key][name]
    lines = [f'{key} = "{name}"', " ".join(_about(entry).partition("\n\n")[0].split())]
    if not dataclasses.is_dataclass(entry):
        return "\n".join([*lines, "It has no settings of its own."])
    return "\n".join([*lines, *_columns(_settings(entry, key.rpartition(".")[2]))])


def section_text(path: str) -> str | None:
    """The settings of a scenario's section by its dotted path; of one that is picked by name the names."""
    found = section_at(path)
    if found is None:
        return None
    lines = [f"[{path}]"]
    if isinstance(found, type):
        return "\n".join([*lines, _words(found), *_columns(_settings(found, ""))])
    key, entries = found
    off = ['It is off where it is left out, or with kind = "none".'] if path == "attack" else []
    lines += [f"  {name:<18} {_about(entry).splitlines()[0]}" for name, entry in entries.items()]
    return "\n".join([*lines, f"It is picked by {key}; fedsim list {path}.NAME tells the settings of each.", *off])


def _find(wanted: str) -> tuple[str, str]:
    """The table and the name in it that ``wanted`` ends with; the last word of the table's key may be left out."""
    found, every = [], []
    for key, table in TABLES.items():
        for name in table:
            spelled = f"{key}.{name}", f"{key.rpartition('.')[0]}.{name}"
            every += [name, *spelled]
            if wanted in (name, *spelled):
                found.append((key, name))
    if len(found) == 1:
        return found[0]
    if found:
        raise BadInput(f"{wanted}: there are several: {', '.join('.'.join(each) for each in found)}.")
    near = difflib.get_close_matches(wanted, every, n=1)
    hint = f"did you mean {near[0]}?" if near else "fedsim list names them all"
    raise BadInput(f"{wanted}: nothing in a scenario is called so ({hint}).")


def _settings(entry: Any, key: str) -> list[tuple[str, str, str]]:
    """Name, type and default of each setting but the entry's own name."""
    schema = TypeAdapter(entry).json_schema()
    rows = [("setting", "type", "default")]
    for field in dataclasses.fields(entry):
        if field.name != key:
            kind = _type(schema["properties"][field.name], schema.get("$defs", {}))
            rows.append((field.name, kind, _default(field)))
    return rows if len(rows) > 1 else [("It has no settings of its own.", "", "")]


def _type(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A type of the JSON schema in a few words."""
    if "$ref" in node:
        node = definitions[node["$ref"].rpartition("/")[2]]
    options = node.get("anyOf") or node.get("oneOf")
    if options:
        kinds = [_type(option, definitions) for option in options if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "const" in node or "enum" in node:
        return " or ".join(json.dumps(value) for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list of {_type(node.get('items', {}), definitions)}"
    if node.get("type") == "object":
        return _table(node)
    bounds = [form.format(node[name]) for name, form in BOUNDS.items() if name in node]
    name = {"string": "text", "integer": "whole number"}.get(node["type"], node["type"])
    return f"{name} {' and '.join(bounds)}".rstrip()


def _table(node: dict[str, Any]) -> str:
    """A table by the name it is picked by, or by its keys."""
    properties = node.get("properties", {})
    picked = [f"{{ {key} = {json.dumps(each['const'])} }}" for key, each in properties.items() if "const" in each]
    return picked[0] if picked else f"{{ {', '.join(properties) or 'any keys'} }}"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return "required" if value is dataclasses.MISSING else "none" if value is None else _toml(value)


def _toml(value: Any) -> str:
    """A value as it would stand in a scenario file."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {key: item for key, item in dataclasses.asdict(value).items() if item is not None}
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value)


def _columns(rows: list[tuple[str, str, str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip() for row in rows
    ]
