"""A site's own records, read as the scenario declares them, and split by the site: some train, some are held back.

Nothing public about the data (classes, categories, constants of scaling) is taken from a site's records: two sites
would not agree, and it would tell of them.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fedsim.data import CustomData, Dataset
from fedsim.data.csv_table import Csv
from fedsim.data.declared import Declared
from fedsim.data.heart_disease import HeartDisease
from fedsim.data.npz import Npz
from fedsim.data.parquet import Parquet
from fedsim.data.scaling import Constants
from fedsim.deployment.site_settings import SiteSettings
from fedsim.errors import BadInput
from fedsim.scenario import Scenario

PUBLIC = (
    'data.scaling.kind: at a site only "constants" can be used; every other kind takes numbers from records or files '
    "that are not public."
)


def load_site_data(scenario: Scenario, where: str, settings: SiteSettings) -> Dataset:
    """The records at ``where``, a file or a function of the site's own "package.module:function", as the task has them.

    ``train`` is what the site trains on, ``test`` what it holds back. Raises ``BadInput`` for data that does not fit.
    """
    data = scenario.data
    if _is_function(where):
        return CustomData(source=where).load(settings.split_seed)
    if not Path(where).expanduser().exists():
        raise BadInput(f"--data {where}: there is no such file.")
    if isinstance(data, HeartDisease):
        _only_constants(data)
        return data.one_hospital(where)
    if isinstance(data, Declared):
        _only_constants(data)
        return _table(data, where, settings).load(settings.split_seed)
    if isinstance(data, Npz):
        return _arrays(data, where, settings).load(settings.split_seed)
    raise BadInput(
        f'data.source = "{data.source}": a site reads csv, parquet, npz and heart_disease, or a function of its own, '
        '"package.module:function".'
    )


def _is_function(where: str) -> bool:
    module, _, name = where.partition(":")
    return bool(name) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _only_constants(data: HeartDisease | Declared) -> None:
    if not isinstance(data.scaling, Constants):
        raise BadInput(PUBLIC)


def _table(data: Declared, where: str, settings: SiteSettings) -> Declared:
    """The scenario's columns, in the site's file, whichever of the two formats it has."""
    made: dict[str, Any] = {field.name: getattr(data, field.name) for field in fields(data) if field.name != "source"}
    own = {"path": where, "client": None, "test_path": None, "test_fraction": settings.held_back}
    kind: type[Csv] | type[Parquet] = Parquet if where.lower().endswith((".parquet", ".pq")) else Csv
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in (made | own).items() if name in known})


def _arrays(data: Npz, where: str, settings: SiteSettings) -> Npz:
    if not data.names and not data.vocabulary:
        raise BadInput("data.names: name the classes in the scenario; a site's labels do not show which there are.")
    own = {"test_features": None, "test_labels": None, "test_owners": None, "train_owners": None}
    return replace(data, path=where, test_fraction=settings.held_back, **own)  # type: ignore[arg-type]
