"""Optional libraries: what is said where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from fedsim.errors import BadInput


def install(extra: str) -> str:
    """The command that brings an extra."""
    return f'pip install "fedsim[{extra}]"'


def missing(what: str, package: str, extra: str) -> BadInput:
    """The error of a feature whose package is not there, with the command that installs it."""
    return BadInput(f"{what} needs {package}, which is not installed: {install(extra)}")


def require(what: str, packages: tuple[str, ...], extra: str) -> None:
    """Raise ``BadInput`` where one of the packages (as they are imported) is not installed."""
    absent = [package for package in packages if find_spec(package) is None]
    if absent:
        raise missing(what, " and ".join(absent), extra)
