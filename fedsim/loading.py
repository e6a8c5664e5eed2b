"""Reading a scenario file: every error at once, each with its dotted path, its value and the nearest name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedsim.checks import check_combinations
from fedsim.checks_raw import certain_problems, without_attack
from fedsim.documents import excess, parse_toml
from fedsim.errors import BadInput
from fedsim.paths import name_of
from fedsim.problem_texts import dotted, must_be_table, nearest, show
from fedsim.scenario import Scenario
from fedsim.schema import adapter, fields_of, holds
from fedsim.settings import CUSTOM

LONGEST_LINE = 2000  # characters that are said of one problem


class ScenarioError(BadInput):
    """A scenario cannot be used; ``problems`` holds one line each."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.problems = [line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "..." for line in problems]
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{where}: {count}", *(f"  {problem}" for problem in self.problems)]))


def load_scenario(source: str | Path, overrides: Iterable[str] = ()) -> Scenario:
    """Load a scenario from a TOML file, with ``overrides`` such as ``"privacy.example.target_epsilon=2"``.

    Raises ``BadInput`` when the file cannot be read and ``ScenarioError`` with every problem in it.
    """
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"The scenario file {path} cannot be read: {reason}.") from error
    return parse_scenario(text, name_of(path), overrides, where=str(path))


def parse_scenario(text: str, name: str, overrides: Iterable[str] = (), where: str = "scenario") -> Scenario:
    """A scenario from TOML text; ``name`` is used where the text does not give one."""
    try:
        raw = parse_toml(text)
    except ValueError as error:
        raise ScenarioError(where, [f"not valid TOML: {error}"]) from error
    if "sweep" in raw:
        raise BadInput(f"{where} is a sweep, not a scenario; run it with: fedsim sweep {where}")
    for override in overrides:
        _set(raw, override)
        if problem := excess(raw):
            raise BadInput(f"--set {override[:60]}: {problem}.")
    raw.setdefault("name", name)
    scenario, problems = _validate(without_attack(raw))
    if scenario is None or problems:
        raise ScenarioError(where, problems)
    return scenario


def _validate(raw: dict[str, Any]) -> tuple[Scenario | None, list[str]]:
    """The scenario if its values are valid, and every problem found, those of combinations included."""
    try:
        scenario = adapter().validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        items = [dict(item) for item in error.errors()]
        problems = [_problem(raw, item) for item in items]
        hidden, named = _behind_misspelt_names(raw, items)
        further = [_problem(named, item) for item in hidden] + _behind_missing_names(named, items)
        further += [*_further_problems(named, [*items, *hidden]), *certain_problems(raw)]
        return None, list(dict.fromkeys([*problems, *further]))
    return scenario, check_combinations(scenario)


def _behind_misspelt_names(
    raw: dict[str, Any], items: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Errors that a misspelt kind or name hides: those of its table as if it were the nearest valid one."""
    named = json.loads(json.dumps(raw, default=str))
    for item in (item for item in items if item["type"] == "choice"):
        _, table = _locate(named, item["loc"])
        key, names = item["ctx"]["key"], item["ctx"]["names"].split(", ")
        near = difflib.get_close_matches(str(table.get(key)), names, n=1) if isinstance(table, dict) else []
        if near:
            table[key] = near[0]
    try:
        adapter().validate_json(json.dumps(named), strict=True)
    except ValidationError as error:
        return [dict(item) for item in error.errors() if item["type"] != "choice"], named
    return [], named


def _behind_missing_names(raw: dict[str, Any], items: list[dict[str, Any]]) -> list[str]:
    """Problems in tables without a kind or name: those that there are whichever of the valid ones it is."""
    choices = [(_locate(raw, item["loc"])[0], item["ctx"]) for item in items if item["type"] == "choice"]
    missing = [(place, context) for place, context in choices if _lacks(_at(raw, place), context["key"])]
    common: dict[tuple[str | int, ...], dict[tuple[str | int, ...], str]] = {}
    for trial in range(max((context["names"].count(",") + 1 for _, context in missing), default=0)):
        tried = json.loads(json.dumps(raw, default=str))
        for place, context in missing:
            names = [name for name in context["names"].split(", ") if name != CUSTOM]
            _at(tried, place)[context["key"]] = names[trial % len(names)]
        found = _located_errors(tried)
        for place, _ in missing:
            own = {where: line for where, line in found.items() if where[: len(place)] == place}
            first = common.setdefault(place, own)
            common[place] = {where: line for where, line in first.items() if where in own}
    return [line for lines in common.values() for line in lines.values()]


def _located_errors(raw: dict[str, Any]) -> dict[tuple[str | int, ...], str]:
    """The errors of a file by their places, other than names that do not exist."""
    try:
        adapter().validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        items: list[dict[str, Any]] = [dict(item) for item in error.errors() if item["type"] != "choice"]
        return {_locate(raw, item["loc"])[0]: _problem(raw, item) for item in items}
    return {}


def _at(raw: Any, place: Sequence[str | int]) -> Any:
    for step in place:
        raw = raw[step] if holds(raw, step) else None
    return raw


def _lacks(table: Any, key: str) -> bool:
    return isinstance(table, dict) and key not in table


def _further_problems(raw: dict[str, Any], items: list[dict[str, Any]]) -> list[str]:
    """Impossible combinations among the values that are valid, so that one reading of the file shows them all."""
    rest = json.loads(json.dumps(raw, default=str))
    removed: list[tuple[str | int, ...]] = []
    for _ in range(3):  # a value taken out can leave a table without one that it needs; then the table goes too
        for item in items:
            location, _ = _locate(rest, item["loc"])
            _remove(rest, location[:-1] if item["type"].startswith("missing") else location)
            removed.append(location)
        try:
            scenario = adapter().validate_json(json.dumps(rest), strict=True)
        except ValidationError as error:
            items = [dict(item) for item in error.errors()]
            continue
        return [line for line in check_combinations(scenario) if not any(_rests_on(line, gone) for gone in removed)]
    return []


def _rests_on(line: str, removed: Sequence[str | int]) -> bool:
    """Whether a problem may only be there because the value at ``removed`` was taken out: it names it or its table."""
    name, parent = dotted(removed), dotted(removed[:-1])
    if "." in parent:
        return parent in line
    path, _, _ = line.replace(":", " ").partition(" ")
    return ("." in name and name in line) or (parent != "" and path.rpartition(".")[0] == parent)


def _remove(table: Any, location: Sequence[str | int]) -> None:
    """Take the value at ``location`` out; inside a list the whole list goes, so that no numbers shift."""
    for step in location[:-1]:
        if not isinstance(table, dict) or isinstance(table.get(str(step)), list):
            break
        table = table.get(str(step))
    else:
        step = location[-1]
    if isinstance(table, dict):
        table.pop(str(step), None)


def _set(raw: dict[str, Any], override: str) -> None:
    """Apply one ``a.b.c=value`` to the raw tables; the value is TOML, or else a plain string."""
    if override.encode(errors="replace").decode() != override:  # bytes of the command line that are no text
        raise BadInput(f"--set {override!a}: it is not UTF-8 text.")
    path, equals, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise BadInput(f"--set {override[:60]}: write it as dotted.path=value, for example rounds=5.")
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()
    table = raw
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise BadInput(f"--set {override[:60]}: {key[:60]} is not a table.")
    table[keys[-1]] = value


def _problem(raw: dict[str, Any], item: dict[str, Any]) -> str:
    """One validation error as ``dotted.path = value: what is wrong``."""
    location, value = _locate(raw, item["loc"])
    context = item.get("ctx", {})
    message = item["msg"][0].lower() + item["msg"][1:]
    if item["type"] == "choice":
        if not isinstance(value, dict):
            return f"{dotted(location)} = {show(value)}: {must_be_table(value, context)}"
        location, value = (*location, context["key"]), value.get(context["key"])
        if value is None:
            return f"{dotted(location)} is missing: {message}"
        message += nearest(str(value), context["names"].split(", "))
    elif item["type"] == "unexpected_keyword_argument":
        parent = fields_of(location[:-1], raw)
        return f"{dotted(location)} = {show(value)}: unknown key{nearest(str(location[-1]), parent)}"
    elif item["type"] == "dataclass_type":
        message = f"must be a table with {', '.join(fields_of(location, raw))}"
    elif item["type"] in ("missing_argument", "missing", "missing_keyword_only_argument"):
        return f"{dotted(location)} is missing"
    elif item["type"] == "literal_error":
        message += nearest(
            str(value), [name.strip("' ") for name in context["expected"].replace(" or ", ", ").split(",")]
        )
    return f"{dotted(location)} = {show(value)}: {message}"


def _locate(raw: Any, loc: Sequence[str | int]) -> tuple[tuple[str | int, ...], Any]:
    """Drop the union tags that pydantic puts into a location; also the value found there, if any."""
    kept: list[str | int] = []
    value: Any = raw
    tagged = True  # the whole file is no union
    for number, step in enumerate(loc):
        if not tagged and number < len(loc) - 1 and _is_tag(value, step):
            tagged = True  # at most once a table, so that a key may be called like the table's tag
            continue
        value = value[step] if holds(value, step) else None
        tagged = False
        kept.append(step)
    return tuple(kept), value


def _is_tag(value: Any, step: str | int) -> bool:
    if not isinstance(value, dict):
        return False
    names = [value.get(key) for key in ("name", "kind", "source")]
    return step in names or (step == "package.module:name" and any(":" in str(name) for name in names))
