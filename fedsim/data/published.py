"""Where a source's files are published, and what is in them: one table for each source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remote:
    """One published file; ``sha256`` is of its content, uncompressed, so that it holds however the file is packed."""

    name: str
    url: str
    sha256: str


@dataclass(frozen=True)
class Published:
    """The page that describes a data set, and the files that ``fedsim data fetch`` can check; without any, by hand."""

    page: str
    files: tuple[Remote, ...] = ()


def remotes(base: str, checksums: dict[str, str]) -> tuple[Remote, ...]:
    """Files that lie side by side under one address."""
    return tuple(Remote(name, f"{base}/{name}", checksum) for name, checksum in checksums.items())
