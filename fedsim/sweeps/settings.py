"""A sweep file: a base scenario, how to search, and what to vary."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from fedsim.documents import parse_toml
from fedsim.errors import BadInput
from fedsim.loading import ScenarioError, _set
from fedsim.paths import name_of
from fedsim.problem_texts import dotted, nearest, show
from fedsim.schema import json_type
from fedsim.settings import Count, section
from fedsim.sweeps.space import MOST_POINTS, Axis, Range, read_space

SWEEP_FILE, BASE_FILE = "sweep.toml", "base.toml"
Seed = Annotated[int, Field(ge=0, lt=2**62)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]


@section
@dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving: after ``first_rounds`` rounds the best 1 / ``factor`` go on for ``factor`` times as many.

    Jamieson and Talwalkar 2016, arXiv 1502.07943.
    """

    first_rounds: Count
    factor: Annotated[int, Field(ge=2)] = 3


@section
@dataclass(frozen=True, kw_only=True)
class Search:
    """How a sweep searches: every combination (grid), settings drawn at random, or what TPE proposes.

    ``trials`` is how many settings random and tpe try. Each runs with every one of ``seeds``; ``seed`` is the search's
    own. ``objective`` is one or two of the task's metrics, epsilon, bytes and simulated_seconds (left out: the task's
    main metric). ``parallel`` is how many runs go on at once (left out: one a core). ``selection`` = "public" declares
    that the records which train and score the runs are public: the report then says so beside what choosing costs.
    ``batch`` is how many settings TPE proposes before it looks at their results.
    """

    method: Literal["grid", "random", "tpe"] = "grid"
    trials: Annotated[int, Field(ge=1, le=MOST_POINTS)] | None = None
    seeds: tuple[Seed, ...] = (0,)
    objective: str | tuple[str, ...] | None = None
    parallel: Annotated[int, Field(ge=1, le=1024)] | None = None
    selection: Literal["public", "private"] = "private"
    halving: Halving | None = None
    seed: Seed = 0
    batch: Count = 4

    @property
    def objectives(self) -> tuple[str, ...]:
        """The objectives that are named; none where the task's main metric is meant."""
        named = self.objective or ()
        return (named,) if isinstance(named, str) else named


@section
@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """The whole file; ``base`` is a scenario file beside it, or the scenario itself as a table."""

    base: str | dict[str, Any]
    sweep: Search
    space: dict[str, Any]
    name: Name | None = None


@dataclass(frozen=True)
class Sweep:
    """A sweep, read: the base scenario's raw tables, how to search, and the axes by dotted key."""

    name: str
    base: dict[str, Any]
    search: Search
    space: Mapping[str, Axis]

    def to_toml(self) -> str:
        """The resolved sweep file, whose base lies beside it as base.toml."""
        import tomli_w

        search = {key: value for key, value in dataclasses.asdict(self.search).items() if value is not None}
        space = {key: _table(axis) for key, axis in self.space.items()}
        return tomli_w.dumps({"name": self.name, "base": BASE_FILE, "sweep": search, "space": space})


def _table(axis: Axis) -> Any:
    if isinstance(axis, Range):
        return {key: value for key, value in dataclasses.asdict(axis).items() if value is not None}
    return list(axis.options)


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep; a file that cannot be read is none."""
    try:
        return "sweep" in _read(path)
    except BadInput:
        return False


def load_sweep(source: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """Read a sweep file, or the one in a sweep's directory; ``overrides`` are set in its base scenario.

    Raises ``BadInput`` when a file cannot be read and ``ScenarioError`` with every problem in it.
    """
    path = Path(source)
    path = path / SWEEP_FILE if path.is_dir() else path
    raw = _read(path)
    if "sweep" not in raw:
        raise BadInput(f"{path} has no [sweep]; if it is a scenario, run it with: fedsim run {path}")
    file = _validated(raw, str(path))
    axes, problems = read_space(file.space)
    problems += _problems(file.sweep, axes)
    if problems:
        raise ScenarioError(str(path), problems)
    base, name = _base(file.base, path), file.name or name_of(path)
    for override in overrides:
        _set(base, override)
    base.setdefault("name", name)
    return Sweep(name, base, file.sweep, {key: _typed(axis, key, base) for key, axis in axes.items()})


def _typed(axis: Axis, key: str, base: dict[str, Any]) -> Axis:
    """A range of whole numbers, or not, as the scenario's setting is; where that can be both, its bounds decide."""
    return axis.of(json_type(key, base)) if isinstance(axis, Range) else axis


def _base(base: str | dict[str, Any], path: Path) -> dict[str, Any]:
    if isinstance(base, dict):
        return base
    file = path.parent / base
    raw = _read(file)
    if "sweep" in raw:
        raise BadInput(f'base = "{base}": {file} is a sweep, not a scenario.')
    raw.setdefault("name", name_of(file))
    return raw


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"The file {path} cannot be read: {reason}.") from error
    except ValueError as error:
        raise ScenarioError(str(path), [f"not valid TOML: {error}"]) from error


def _validated(raw: dict[str, Any], where: str) -> SweepFile:
    # The space and the base may hold infinity, which JSON has not; they are checked later, by themselves.
    plain = json.dumps({**raw, **{key: {} for key in ("base", "space") if isinstance(raw.get(key), dict)}}, default=str)
    try:
        file = TypeAdapter(SweepFile).validate_json(plain, strict=True)
    except ValidationError as error:
        raise ScenarioError(where, list(dict.fromkeys(map(_line, error.errors())))) from error
    return dataclasses.replace(file, base=raw["base"], space=raw["space"])


def _line(item: Any) -> str:
    """One validation error as ``dotted.path = value: what is wrong``."""
    tags = ("str", "dict[str,any]", "tuple[str, ...]")
    location = [step for step in item["loc"] if step not in tags]
    if item["type"] == "unexpected_keyword_argument":
        known = {(): SweepFile, ("sweep",): Search, ("sweep", "halving"): Halving}[tuple(location[:-1])]
        names = [field.name for field in dataclasses.fields(known)]
        return f"{dotted(location)}: unknown key{nearest(str(location[-1]), names)}"
    if item["type"].startswith("missing"):
        return f"{dotted(location)} is missing"
    return f"{dotted(location)} = {show(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _problems(search: Search, axes: Mapping[str, Axis]) -> list[str]:
    """Impossible combinations."""
    found = []
    if search.method == "grid" and search.trials is not None:
        found.append(f"sweep.trials = {search.trials}: a grid has as many settings as combinations; leave it out")
    if search.method != "grid" and search.trials is None:
        found.append(f'sweep.trials is missing: how many settings method = "{search.method}" tries')
    if not search.seeds or len(set(search.seeds)) < len(search.seeds):
        found.append(f"sweep.seeds = {list(search.seeds)}: must be one or more different seeds")
    if len(search.objectives) > 2 or len(set(search.objectives)) < len(search.objectives) or search.objective == ():
        found.append(f"sweep.objective = {list(search.objectives)}: must be one metric or two different ones")
    if "seed" in axes:
        found.append("space.seed: list the seeds in sweep.seeds")
    if search.halving is not None:
        found += _halving(search, axes)
    return found


def _halving(search: Search, axes: Mapping[str, Axis]) -> list[str]:
    found = []
    if search.method == "tpe":
        found.append('sweep.halving: only with method "grid" or "random"; TPE learns from whole runs')
    if len(search.objectives) > 1:
        found.append("sweep.halving: ranks settings by one objective")
    if "rounds" in axes:
        found.append("space.rounds: with sweep.halving every setting has as many rounds")
    return found


def is_infinite(value: Any) -> bool:
    """Whether a target epsilon means "without privacy": infinity, or the word for it."""
    return value == "inf" or (isinstance(value, float) and math.isinf(value) and value > 0)
