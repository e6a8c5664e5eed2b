"""What every run promises, and what every refusal does."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from safetensors.torch import load_file

import fedsim
from fedsim.errors import BadInput, FedsimError
from fedsim.loading import parse_scenario
from fedsim.privacy.accounting_prv import prv_epsilon
from fedsim.scenario import Scenario
from fedsim.tasks import TASKS
from tests.conformance.axes import TEXT, Choice, overrides_of

# A setting by its dotted path, or a section in brackets.
PATH = re.compile(rf"\b({'|'.join(field.name for field in fields(Scenario))})(\.[a-z_]+)+\b")
known_prv = lru_cache(maxsize=None)(prv_epsilon)


@contextmanager
def quick(reports: bool = False) -> Iterator[None]:
    """Nothing is made to survive the machine, an epsilon is cross-checked once, and no report is written."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(os, "fsync", return_value=None))
        stack.enter_context(mock.patch("fedsim.privacy.accounting.prv_epsilon", known_prv))
        if not reports:
            stack.enter_context(mock.patch("fedsim.running.build_report", lambda path: path))
        yield


def short_run(scenario: Scenario, folder: Path, stop: int | None = None) -> fedsim.Result:
    """Run it, to the end or for so many rounds, and check what every run promises."""
    result = fedsim.run(scenario, folder / "run", until=stop)
    check_promises(scenario, result, stop)
    return result


def check_promises(scenario: Scenario, result: fedsim.Result, stop: int | None = None) -> None:
    """The rounds, finite metrics (but where an attack may have its will), one statement per protected unit."""
    rounds = stop or scenario.rounds
    assert result.summary["status"] == ("interrupted" if stop and stop < scenario.rounds else "completed")
    assert result.summary["rounds"] == rounds
    names = TASKS[result.summary["task"]].metric_names
    assert set(names) <= set(result.metrics)
    assert result.summary["main_metric"] in names
    assert scenario.attack is not None or all(math.isfinite(value) for value in result.metrics.values())
    assert all(tensor.isfinite().all() for tensor in load_file(result.directory / "model.safetensors").values())
    rows = [json.loads(line) for line in (result.directory / "rounds.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rows] == list(range(1, rounds + 1))
    assert all(set(names) <= set(row) for row in rows)
    assert {name: result.metrics[name] for name in names} == {name: rows[-1][name] for name in names}
    _check_statements(scenario, result.privacy, rows[-1])


def _check_statements(scenario: Scenario, privacy: list[dict[str, Any]], last: dict[str, Any]) -> None:
    units = [unit for unit in ("example", "client") if getattr(scenario.privacy, unit)]
    assert [entry["unit"] for entry in privacy] == (units or ["none"])
    for unit, entry in zip(units, privacy, strict=False):
        assert 0 < entry["epsilon"] < math.inf
        assert last[f"epsilon_{unit}"] == pytest.approx(entry["epsilon"])
    if not units:
        assert privacy[0]["epsilon"] == "inf"


def tried(folder: Path, *choices: Choice) -> str | None:
    """Run two rounds with some choices, and check what a run promises; or why they are refused together.

    A refusal must be a ``BadInput`` that names a setting, before anything is written. An attack may win: a run that it
    drives beyond all numbers stops, and says so.
    """
    refusal = None
    try:
        scenario = parse_scenario(TEXT, "tried", [*overrides_of(*choices), "rounds=2"])
        check_promises(scenario, fedsim.run(scenario, folder / "run"))
    except BadInput as error:
        refusal = str(error)
    except FedsimError as error:
        if not (any(choice.axis == "attack.kind" for choice in choices) and "diverged" in str(error)):
            raise
    if refusal is not None:
        assert PATH.search(refusal), f"no setting is named: {refusal}"
        assert not (folder / "run").exists(), "it was refused after something was written"
    return refusal
