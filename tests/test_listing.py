"""What ``fedsim list`` says of sections, against the dataclasses that they are."""

from __future__ import annotations

import dataclasses

import pytest

from fedsim.asynchronous import ASYNCHRONOUS
from fedsim.attacks import ATTACKS
from fedsim.communication import Communication
from fedsim.devices.settings import Devices, Dropout
from fedsim.errors import BadInput
from fedsim.listing import entry_text
from fedsim.scenario import ClientPrivacy, Cohort, EngineSettings, Evaluation, Privacy
from fedsim.sweeps.settings import Halving, Search, SweepFile
from fedsim.sweeps.space import Range

SECTIONS = {
    "devices": Devices,
    "devices.dropout": Dropout,
    "communication": Communication,
    "evaluation": Evaluation,
    "privacy": Privacy,
    "privacy.client": ClientPrivacy,
    "cohort": Cohort,
    "engine": EngineSettings,
}


@pytest.mark.parametrize("path", SECTIONS)
def test_a_section_s_keys_are_those_of_its_dataclass(path):
    lines = entry_text(path).splitlines()
    assert lines[0] == f"[{path}]"
    assert [line.split()[0] for line in lines[3:]] == [field.name for field in dataclasses.fields(SECTIONS[path])]


def test_types_and_defaults_are_told():
    lines = [line.split() for line in entry_text("devices").splitlines()]
    assert ["latency_seconds", "number", ">=", "0", "0.0"] in lines
    assert ["deadline_seconds", "number", ">", "0", "none"] in lines


@pytest.mark.parametrize(("path", "table"), [("attack", ATTACKS), ("asynchronous", ASYNCHRONOUS)])
def test_a_section_that_is_picked_by_name_lists_the_names(path, table):
    lines = entry_text(path).splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(table)
    assert f"fedsim list {path}.NAME" in "\n".join(lines)
    assert ('kind = "none"' in lines[-1]) == (path == "attack")


@pytest.mark.parametrize("name", ["sweep", "sweep.method", "halving", "space"])
def test_all_keys_of_a_sweep_file_are_told(name):
    told = {line.split()[0] for line in entry_text(name).splitlines() if line.startswith("  ")}
    parts = (SweepFile, Search, Halving, Range)
    assert {field.name for part in parts for field in dataclasses.fields(part)} <= told
    with pytest.raises(BadInput, match="nothing in a scenario"):
        entry_text(f"{name}.nothing")


@pytest.mark.parametrize("path", ["seed", "devices.latency_seconds", "privacy.nobody", "nothing"])
def test_what_is_no_section_is_none(path):
    with pytest.raises(BadInput, match="nothing in a scenario is called so"):
        entry_text(path)
