"""What a scenario may choose, one choice at a time, as overrides of a small one: from the tables, not from a list.

An axis is a table of ``fedsim list``, the names of optimizers, or a setting of [privacy] with a few values.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fedsim.algorithms import ALGORITHMS
from fedsim.listing import TABLES
from fedsim.models import MODELS
from fedsim.optimizers import ELEMENTWISE, optimizer_classes
from fedsim.scenario import ClientPrivacy, ExamplePrivacy, Privacy
from tests.conftest import SMALL, settings_of
from tests.samples import tasks_of

CLIENTS = 8
TEXT = SMALL.replace("clients = 6", f"clients = {CLIENTS}")
EXAMPLE = "privacy.example={clip_norm=0.7, noise_multiplier=1.1, delta=1e-4}"
CLIENT = "privacy.client={clip_norm=0.4, noise_multiplier=1.2, delta=1e-2}"
DEVICES = 'devices={compute={kind="lognormal", median=20, sigma=1.0}, dropout={before_upload=0.1}}'
ASYNCHRONOUS = 'asynchronous={kind="fedbuff", buffer_size=3, concurrency=5}'
CYCLIC = 'cohort.sampling={kind="cyclic", groups=2}'
UNITS = {"none": (), "example": (EXAMPLE,), "client": (CLIENT,), "both": (EXAMPLE, CLIENT)}
TRACES = Path(__file__).parent / "traces"
# Tables whose entries need files of their own, and where each of them is run.
ELSEWHERE = {
    "data.source": "test_tables.py",
    "data.features.kind": "tests/data/test_csv.py",
    "data.scaling.kind": "tests/data/test_csv_scaling.py",
}


@dataclass(frozen=True)
class Choice:
    """One value of an axis: what it ``needs`` to make sense, which another choice may change, and what it ``sets``."""

    axis: str
    name: str
    sets: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.axis}={self.name}"


def overrides_of(*choices: Choice) -> list[str]:
    """Overrides of ``TEXT`` for several choices at once."""
    return [text for kind in ("needs", "sets") for choice in choices for text in getattr(choice, kind)]


@cache
def axes() -> dict[str, list[Choice]]:
    """Every axis with all its choices."""
    found = {key: [_of_table(key, name) for name in table] for key, table in TABLES.items() if key not in ELSEWHERE}
    found["algorithm.local.optimizer"] = [
        Choice(
            "algorithm.local.optimizer",
            name,
            (f'algorithm.local.optimizer="{name}"', "algorithm.local.learning_rate=0.01"),
        )
        for name in ELEMENTWISE
    ]
    found["algorithm.server.optimizer"] = [
        Choice("algorithm.server.optimizer", name, (f'algorithm.server={{optimizer="{name}", learning_rate=0.1}}',))
        for name in sorted(optimizer_classes())
    ]
    found["privacy"] = [Choice("privacy", name, (), settings) for name, settings in UNITS.items()]
    for path, cls in (("privacy", Privacy), ("privacy.example", ExamplePrivacy), ("privacy.client", ClientPrivacy)):
        found |= _literals(path, cls)
    projected = ("privacy.client.projected={cohort=500, population=100000}", "privacy.client.delta=1e-6")
    found["privacy.client.projected"] = [Choice("privacy.client.projected", "yes", projected, (CLIENT,))]
    return found


def choices() -> list[Choice]:
    """Every choice of every axis."""
    return [choice for axis in axes().values() for choice in axis]


def _of_table(key: str, name: str) -> Choice:
    """An entry of a table, with the settings that it cannot do without on ``CLIENTS`` clients."""
    special = {
        "algorithm.name": _algorithm,
        "model.name": _model,
        "task.kind": _task,
        "cohort.sampling.kind": _sampling,
        "population.partition.kind": _partition,
        "data.problem.kind": _problem,
        "asynchronous.kind": _asynchronous,
        "asynchronous.staleness.kind": _staleness,
    }
    if key in special:
        return special[key](key, name)
    table, _, field = key.rpartition(".")
    if key == "engine.trainer":
        return Choice(key, name, (f'{key}="{name}"',))
    needs: dict[str, tuple[str, ...]] = {"privacy.example.clipping": (EXAMPLE,), "privacy.client.clipping": (CLIENT,)}
    settings = f'{{{field}="{name}"{_files(TABLES[key][name], table)}}}'
    return Choice(key, name, (f"{table}={settings}",), needs.get(table, ()))


def _files(entry: Any, table: str) -> str:
    """The trace of an entry of [devices] that reads one."""
    required = {field.name for field in dataclasses.fields(entry) if field.default is dataclasses.MISSING}
    values = {"path": f'path="{TRACES / table.rpartition(".")[2]}.csv"', "column": 'column="rate"'}
    assert required <= values.keys(), f"{table}: tests/conformance/axes.py does not know what to give for {required}"
    return "".join(f", {values[name]}" for name in sorted(required))


def _algorithm(key: str, name: str) -> Choice:
    steps = () if ALGORITHMS[name].one_step else ("algorithm.local.steps=2",)
    named, *needs = settings_of(name)
    return Choice(key, name, (named,), (*needs, *steps))


def _model(key: str, name: str) -> Choice:
    """On the first of the sample data that fit it."""
    sample, task = next(iter(tasks_of(MODELS[name]()).items()))
    about = (*_data(sample), f'task={{kind="{task.objective.kind}"}}')
    return Choice(key, name, (f'model={{name="{name}"}}',), about)


def _data(sample: str) -> tuple[str, ...]:
    return (
        f'data={{source="tests.samples:load", settings={{sample="{sample}"}}}}',
        'population.partition={kind="iid"}',
    )


def _task(key: str, name: str) -> Choice:
    """With the first model and sample data that fit it."""
    for model, settings in MODELS.items():
        for sample, task in tasks_of(settings()).items():
            if task.objective.kind == name:
                needs = (*_data(sample), f'model={{name="{model}"}}')
                return Choice(key, name, (f'task={{kind="{name}"}}',), needs)
    raise AssertionError(f"no sample is for {name}; add one to tests/samples.py")


def _sampling(key: str, name: str) -> Choice:
    settings = {"poisson": ", rate=0.6", "fixed": ", size=5", "cyclic": ", groups=2"}.get(name, "")
    return Choice(key, name, (f'cohort.sampling={{kind="{name}"{settings}}}',))


def _partition(key: str, name: str) -> Choice:
    owned = ('data={source="tests.samples:load", settings={sample="owned images"}}',) if name == "natural" else ()
    return Choice(key, name, (f'population.partition={{kind="{name}"}}',), owned)


def _problem(key: str, name: str) -> Choice:
    needs = ('data={source="synthetic"}', 'population.partition={kind="iid"}')
    return Choice(key, name, (f'data.problem={{kind="{name}"}}',), needs)


def _asynchronous(key: str, name: str) -> Choice:
    sizes = {"fedbuff": ", buffer_size=3, concurrency=5", "fedasync": ", concurrency=4"}.get(name, "")
    return Choice(key, name, (f'asynchronous={{kind="{name}"{sizes}}}',), (DEVICES,))


def _staleness(key: str, name: str) -> Choice:
    return Choice(key, name, (f'asynchronous.staleness={{kind="{name}"}}',), (DEVICES, ASYNCHRONOUS))


def _literals(path: str, cls: type) -> dict[str, list[Choice]]:
    """The settings of a part of [privacy] that have a few values, each an axis."""
    needs = {"privacy.example": (EXAMPLE,), "privacy.client": (CLIENT,)}.get(path, (EXAMPLE, CLIENT))
    found = {}
    for field, kind in typing.get_type_hints(cls).items():
        values = [value for value in _values(kind) if isinstance(value, str)]
        if values:
            key = f"{path}.{field}"
            found[key] = [
                Choice(key, value, (f'{key}="{value}"', *_bands(value)), _needed(value, needs)) for value in values
            ]
    return found


def _values(kind: Any) -> Iterator[Any]:
    """The values of a literal type, also of an optional one."""
    if typing.get_origin(kind) is Literal:
        yield from typing.get_args(kind)
    else:
        for part in typing.get_args(kind):
            yield from _values(part)


def _bands(value: str) -> tuple[str, ...]:
    return ("privacy.client.bands=2",) if value == "banded" else ()


def _needed(value: str, needs: tuple[str, ...]) -> tuple[str, ...]:
    """Correlated noise needs a cyclic cohort, and two relations one of fixed size."""
    if value in ("banded", "tree"):
        return (*needs, CYCLIC)
    return (*needs, 'cohort.sampling={kind="fixed", size=5}') if value in ("zero-out", "replace-one") else needs
