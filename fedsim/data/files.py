"""Where a data source's files are looked for, and how one is read whole, compressed or not."""

from __future__ import annotations

import gzip
import lzma
import os
import resource
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

from fedsim.data.published import Published
from fedsim.errors import BadInput
from fedsim.paths import expanded

OPENERS: dict[str, type[gzip.GzipFile] | type[lzma.LZMAFile]] = {".gz": gzip.GzipFile, ".xz": lzma.LZMAFile}
# What the decompressors raise on a file that is torn or no such file.
TORN = (OSError, EOFError, zlib.error, lzma.LZMAError)
CHUNK = 2**20
# One file may unpack to such a part of the memory. Rows of text need some ten times as much, arrays little more.
TEXT_PART, ARRAY_PART = 16, 4
MOST_DEFLATED = 1032  # bytes that gzip can make one of


def find_files(
    source: str, path: str | None, wanted: list[str], published: Published | None, others: Sequence[list[str]] = ()
) -> list[Path]:
    """The files ``wanted`` (plain, ``.gz`` or ``.xz``) in ``path``, else in ``$FEDSIM_DATA/<source>``.

    ``others`` are sets of files that do as well, in this order. Raises ``BadInput`` that names every file, the folders
    searched and where the data is ``published``, if it is.
    """
    folders = data_folders(source, path)
    for names in (wanted, *others):
        for folder in folders:
            found = [existing(folder / name) for name in names]
            if all(found):
                return [file for file in found if file]
    searched = ", ".join(str(folder.absolute()) for folder in folders) or "nowhere"
    files = "; or ".join(", ".join(names) for names in (wanted, *others))
    hints = [_where(path), *_sources(source, wanted, published)]
    raise BadInput(
        f'data.source = "{source}" needs the files {files} (plain, .gz or .xz); searched: {searched}.'
        + "".join(f" {hint}" for hint in hints if hint)
    )


def _where(path: str | None) -> str:
    """How to say where the files are, or that a path was not taken for what was meant."""
    if path is None:
        return "Set data.path, or the environment variable FEDSIM_DATA to the folder that holds it."
    return "" if Path(path).expanduser().is_absolute() else "A relative path starts at the current folder."


def _sources(source: str, wanted: list[str], published: Published | None) -> list[str]:
    """Where the files come from."""
    if published is None:
        return []
    fetched = {remote.name.removesuffix(".gz") for remote in published.files}
    page = f"Published at {published.page}."
    if not fetched.issuperset(wanted):
        return [page]
    return [page, f'To download them into the folder "{source}" of FEDSIM_DATA: fedsim data fetch {source}']


def data_folders(source: str, path: str | None) -> list[Path]:
    """The folders in which a source's files may lie: ``path`` alone, else the one of its name in FEDSIM_DATA."""
    if path is not None:
        return [expanded("data.path", path)]
    root = os.environ.get("FEDSIM_DATA")
    return [expanded("FEDSIM_DATA", root) / source] if root else []


def existing(file: Path) -> Path | None:
    """The file, or its compressed form if only that is there."""
    candidates = (file, *(file.with_name(file.name + suffix) for suffix in OPENERS))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def open_plain(file: Path, packing: str) -> IO[bytes]:
    """The file's content, unpacked as the suffix ``packing`` says; reading raises one of ``TORN`` where it is torn."""
    if packing in OPENERS:
        return cast(IO[bytes], OPENERS[packing](file))
    return file.open("rb")


def read_whole(file: Path) -> bytes:
    """The file's content; raises ``BadInput`` when it cannot be read, is torn, or unpacks to more than fits here."""
    try:
        if file.suffix not in OPENERS:
            return file.read_bytes()
        if file.suffix == ".gz" and MOST_DEFLATED * file.stat().st_size <= memory_bytes() // TEXT_PART:
            return gzip.decompress(file.read_bytes())  # a third faster than by parts
        with open_plain(file, file.suffix) as content:
            return _unpacked(file, content)
    except TORN as error:
        raise BadInput(f"{file} cannot be read: {error}.") from error


def _unpacked(file: Path, content: IO[bytes]) -> bytes:
    parts, size = [], 0
    while part := content.read(CHUNK):
        size += len(part)
        check_fits(str(file), size)
        parts.append(part)
    return b"".join(parts)


def memory_bytes() -> int:
    """This machine's memory, or what this process may have of it."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return own if limit == resource.RLIM_INFINITY else min(own, limit)


def check_fits(what: str, size: int, part: int = TEXT_PART) -> None:
    """Raise ``BadInput`` where ``what`` unpacks to more than one ``part``-th of the memory: more is made of it."""
    most = memory_bytes() // part
    if size > most:
        raise BadInput(
            f"{what} unpacks to more than {most / 2**30:.3g} GiB, 1 / {part} of this machine's memory, and so is not "
            "read."
        )


def read_text(file: Path) -> str:
    """The file's text, lines ended by one character; raises ``BadInput`` when it is torn or not UTF-8."""
    try:
        text = read_whole(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text (byte {error.start}).") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
