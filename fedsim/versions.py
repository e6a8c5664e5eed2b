"""Whether the installed torch and Flower are those that fedsim is made for."""

from __future__ import annotations

import logging
import re
from functools import cache
from importlib import metadata

from fedsim.errors import BadInput


@cache
def check_versions() -> None:
    """Warn once of another torch, whose numbers may differ; raise ``BadInput`` for another Flower.

    Messages, grids and the deployment rest on parts of Flower that change from release to release. Where fedsim is not
    installed as a package nothing is known of what it needs.
    """
    wanted = pinned()
    if (found := wrong("torch", wanted)) is not None:
        logging.getLogger("fedsim").warning(
            "torch %s is installed, and fedsim is tested with %s: numbers may differ from other machines'. "
            'To change it: pip install "torch==%s"',
            *(found, wanted["torch"], wanted["torch"]),
        )
    if (found := wrong("flwr", wanted)) is not None:
        raise BadInput(
            f"Flower (flwr) {found} is installed, and fedsim needs {wanted['flwr']}, on whose inner parts it rests: "
            f'pip install "flwr=={wanted["flwr"]}"'
        )


def pinned() -> dict[str, str]:
    """The versions of torch and flwr that the installed package names; empty where it is not installed."""
    try:
        lines = metadata.requires("fedsim") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.fullmatch(r"(torch|flwr)==([0-9.*]+)", line.replace(" ", "")) for line in lines)
    return {match[1]: match[2] for match in found if match}


def wrong(package: str, wanted: dict[str, str]) -> str | None:
    """The version of a package where it is not the wanted one; what a build adds to it, as ``+cpu``, is no matter."""
    if package not in wanted:
        return None
    try:
        found = metadata.version(package)
    except metadata.PackageNotFoundError:
        return None  # the import says so
    pattern = re.escape(wanted[package]).replace(r"\.\*", r"(\.[0-9]+)*")
    return None if re.fullmatch(pattern, found.split("+")[0]) else found
