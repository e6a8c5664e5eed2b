"""requirements.lock holds all that pyproject.toml asks for, pinned and hashed, under licences that are allowed."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply_chain.licences import ALLOWED, licence
from tests.supply_chain.locked import EXTRAS, PROJECT, ROOT, closure, locked, needs, wanted

EVERY = {"": PROJECT["dependencies"], **EXTRAS}
RUNTIME = [line for extra, lines in EVERY.items() if extra != "dev" for line in lines]


def outside(requirements: list[Requirement], pins) -> list[str]:
    """The requirements that the lock does not satisfy."""
    pinned = {name: pin.version for name, pin in pins.items()}
    names = {str(requirement): canonicalize_name(requirement.name) for requirement in requirements}
    return [
        str(requirement)
        for requirement in requirements
        if not requirement.specifier.contains(pinned.get(names[str(requirement)], "0"), prereleases=True)
    ]


@pytest.mark.parametrize("extra", EVERY)
def test_every_dependency_of_every_extra_is_pinned_within_its_range(extra):
    assert outside(wanted(EVERY[extra]), locked()) == []


def test_a_lock_that_lacks_something_or_is_too_old_would_be_seen():
    text = (ROOT / "requirements.lock").read_text()
    assert outside(wanted(EVERY["sweep"]), locked(text.replace("optuna==", "another=="))) == ["optuna>=4.4"]
    assert outside(wanted(EVERY["sweep"]), locked(re.sub(r"optuna==\S+", "optuna==4.3", text))) == ["optuna>=4.4"]
    assert "optuna" not in locked(re.sub(r"(optuna==\S+ \\\n)(    --hash=\S+( \\)?\n)+", r"\1", text))


def test_everything_has_hashes_and_no_place_is_named():
    text = (ROOT / "requirements.lock").read_text()
    pins = locked()
    assert len(pins) == len(re.findall(r"^[A-Za-z0-9]", text, flags=re.MULTILINE))
    assert all(pin.hashes >= 1 for pin in pins.values())
    assert re.findall(r"https?:|file:/|--\w*index|--find-links|--trusted", text) == []


def test_what_the_locked_packages_need_is_locked_too():
    """Looked at where the locked version is the installed one: another one may need something else."""
    pins = locked()
    here = {name for name in pins if _version(name) == pins[name].version}
    assert len(here) > 50
    assert {name: outside(needs(name), pins) for name in here if outside(needs(name), pins)} == {}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def test_every_installed_package_that_fedsim_uses_has_a_licence_that_is_allowed():
    found = {name: licence(name) for name in closure(wanted(RUNTIME))}
    assert len(found) > 50
    refused = {name: names for name, names in found.items() if not names or not set(names) <= set(ALLOWED)}
    assert refused == {}, "look at these licences, and explain in tests/supply_chain/licences.py why they may be here"


def test_the_list_of_licences_names_every_locked_package_with_its_version():
    rows = re.findall(
        r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text(), flags=re.MULTILINE
    )
    assert {name: version for name, version, _ in rows if name != "package"} == {
        name: pin.version for name, pin in locked().items()
    }
    assert {part for name, _, names in rows if name != "package" for part in names.split(", ")} <= set(ALLOWED)
