"""What pyproject.toml asks for, and requirements.lock gives."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==(\S+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


@dataclass(frozen=True)
class Pin:
    """A package of the lock: its one version, and how many files may be installed for it."""

    version: str
    hashes: int


def locked(text: str | None = None) -> dict[str, Pin]:
    """The packages of the lock by their canonical names."""
    text = (ROOT / "requirements.lock").read_text() if text is None else text
    return {
        canonicalize_name(name): Pin(version, hashes.count("sha256:")) for name, version, hashes in ENTRY.findall(text)
    }


def wanted(lines: list[str]) -> list[Requirement]:
    """Requirements that hold on this machine."""
    found = map(Requirement, lines)
    return [
        requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]


def needs(package: str) -> list[Requirement]:
    """What an installed package requires on this machine, without its extras."""
    return wanted(metadata.requires(package) or [])


def closure(requirements: list[Requirement]) -> set[str]:
    """The installed packages that these need, directly or not, by their canonical names."""
    found: set[str] = set()
    waiting = [canonicalize_name(requirement.name) for requirement in requirements]
    while waiting:
        name = waiting.pop()
        try:
            more = needs(name)
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [canonicalize_name(requirement.name) for requirement in more]
    return found
