"""Nothing is forgotten: whatever lies in a table's folder is in the table, is described, and is listed everywhere."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import typing
from typing import Any

import pytest

import fedsim
from fedsim.listing import TABLES, tables_text
from fedsim.listing_sections import _section
from fedsim.scenario import Scenario
from fedsim.schema import adapter
from fedsim.training import TRAINERS, Trainer

# Folders whose modules are not imported here: deployments' settings are their own, and sinks need other packages.
APART = ("fedsim.deployment", "fedsim.engines", "fedsim.tracking")
ENTRIES = [(key, name, entry) for key, table in TABLES.items() for name, entry in table.items()]
SETTINGS_OF_ENTRIES = [(key, name, entry) for key, name, entry in ENTRIES if dataclasses.is_dataclass(entry)]


def classes() -> list[type]:
    """Every class of fedsim, where it is defined."""
    found: list[type] = []
    for module in pkgutil.walk_packages(fedsim.__path__, "fedsim."):
        if module.name.startswith(APART) or module.name.endswith("__main__"):
            continue
        members = inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        found += [cls for _, cls in members if cls.__module__ == module.name]
    return found


def name_of(cls: type) -> tuple[str, str] | None:
    """The field and the value by which a scenario picks a dataclass: ``kind: Literal["median"]``."""
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        value = re.fullmatch(r"(?:typing\.)?Literal\[['\"]([^'\"]+)['\"]\]", str(field.type))
        if field.name in ("kind", "name", "source") and value:
            return field.name, value[1]
    return None


def choices_in(cls: type, path: str = "") -> dict[str, dict[str, Any]]:
    """Every choice by name in a section and in what it chooses from, by its path without the names chosen."""
    found: dict[str, dict[str, Any]] = {}
    for field, kind in typing.get_type_hints(cls, include_extras=True).items():
        section, place = _section(kind), f"{path}.{field}".removeprefix(".")
        if isinstance(section, tuple):
            key, entries = section
            found[f"{place}.{key}"] = entries
            for entry in entries.values():
                found |= choices_in(entry, place)
        elif section is not None:
            found |= choices_in(section, place)
    return found


def test_a_class_that_a_scenario_could_pick_is_in_a_table():
    """A file that was added and forgotten has a class with a name of its own that no table has."""
    known = {entry for _, _, entry in ENTRIES}
    nested = {entry for entries in choices_in(Scenario).values() for entry in entries.values()}
    named = {cls: name_of(cls) for cls in classes() if name_of(cls)}
    assert {cls.__name__: name for cls, name in named.items() if cls not in known | nested} == {}
    assert len(named) > 80


def test_an_entry_is_called_in_its_table_as_it_calls_itself():
    for key, name, entry in SETTINGS_OF_ENTRIES:
        assert name_of(entry) == (key.rpartition(".")[2], name), entry


def test_every_trainer_is_in_the_table():
    concrete = {cls for cls in classes() if issubclass(cls, Trainer) and not inspect.isabstract(cls)}
    assert concrete == set(TRAINERS.values())


def test_every_choice_of_a_scenario_is_a_table_of_the_list():
    listed = {key: entries for key, entries in choices_in(Scenario).items() if key not in TABLES}
    same = {key: entries for key, entries in choices_in(Scenario).items() if key in TABLES}
    assert listed == {}
    assert all(TABLES[key].items() >= entries.items() for key, entries in same.items())
    assert TABLES.keys() - same.keys() == {"engine.trainer", "data.features.kind"}, "they are no sections"


@pytest.mark.parametrize(("key", "name", "entry"), ENTRIES, ids=lambda value: value if isinstance(value, str) else "")
def test_every_entry_is_described_and_each_of_its_settings_has_a_type(key, name, entry):
    first = (entry.__doc__ or "").splitlines()[0]
    assert 10 < len(first) < 120
    assert not first.startswith(f"{entry.__name__}("), "a dataclass's own docstring, made of its fields"
    assert any(line.split()[:1] == [name] for line in tables_text().splitlines())


def test_every_entry_is_in_the_schema():
    schema = adapter().json_schema()["$defs"].values()
    named = {(field, node.get("const")) for each in schema for field, node in each.get("properties", {}).items()}
    for key, name, _ in SETTINGS_OF_ENTRIES:
        assert (key.rpartition(".")[2], name) in named, key
    assert all(name in str(adapter().json_schema()) for name in TRAINERS)


# Entries that need no paper: what everybody would write, or a baseline that is the absence of a method.
COMMON = {"local", "nan", "none", "fp16", "iid", "quantity_skew"}
YEAR = re.compile(r"\b(18|19|20)\d\d\b")
CITED = [
    "algorithm.name",
    "algorithm.aggregation.kind",
    "asynchronous.kind",
    "attack.kind",
    "communication.compression.kind",
    "model.name",
    "population.partition.kind",
]


@pytest.mark.parametrize("key", CITED)
def test_methods_name_their_papers(key):
    """In the entry's docstring, its module's, or its line of the table."""
    for name, entry in TABLES[key].items():
        told = f"{entry.__doc__} {inspect.getmodule(entry).__doc__} {_line_of_table(name, entry)}"
        assert bool(YEAR.search(told)) == (name not in COMMON), f"{key} = {name}: {told}"


def _line_of_table(name: str, entry: type) -> str:
    package = entry.__module__.rpartition(".")[0]
    files = [importlib.import_module(package)]
    if importlib.util.find_spec(f"{package}.table"):
        files.append(importlib.import_module(f"{package}.table"))
    lines = [line for file in files for line in inspect.getsource(file).splitlines()]
    return " ".join(line for line in lines if line.strip().startswith(f'"{name}":'))
