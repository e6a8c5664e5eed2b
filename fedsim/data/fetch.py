"""Downloading published files, on a person's word only: resumable, and kept only if their checksum is right."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedsim.data.files import TORN, data_folders, open_plain
from fedsim.data.published import Published, Remote
from fedsim.errors import BadInput
from fedsim.paths import expanded

TIMEOUT_SECONDS = 60
_CHUNK = 2**18
_UNSATISFIABLE = 416
_PARTIAL = 206

Progress = Callable[[str, int, int | None], None]  # the file, bytes there, bytes in all if the server says so


def fetch(name: str, published: Published, to: Path | None, progress: Progress) -> list[Path]:
    """Download a source's published files into ``to`` (or ``$FEDSIM_DATA/<name>``), one after the other.

    Files already there are checked and kept; a download that was cut short goes on where it stopped. Raises
    ``BadInput`` when there is nothing to fetch, the network fails, or a checksum is wrong; that file is not kept.
    """
    if not published.files:
        raise BadInput(f'data.source = "{name}" has no file that can be checked; fetch it by hand: {published.page}.')
    folder = target_folder(name, to)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [_fetch_one(remote, folder, progress) for remote in published.files]
    except OSError as error:
        raise BadInput(f"{folder} cannot be written to: {error}.") from error


def target_folder(name: str, to: Path | None) -> Path:
    """Where a source's files go; raises ``BadInput`` when nothing says so."""
    if to is not None:
        return expanded("--to", to)
    folders = data_folders(name, None)
    if not folders:
        raise BadInput("Name a folder by --to, or set the environment variable FEDSIM_DATA to the one for all data.")
    return folders[0]


def _fetch_one(remote: Remote, folder: Path, progress: Progress) -> Path:
    file = folder / remote.name
    if file.exists():
        if _checksum(file, file.suffix) != remote.sha256:
            raise BadInput(f"{file} is there already, but is not the published file (its checksum differs); remove it.")
        return file
    part = folder / (remote.name + ".part")
    _download(remote, part, progress)
    if _checksum(part, file.suffix) != remote.sha256:
        part.unlink()
        raise BadInput(
            f"{remote.url} is not the published {remote.name}: its content has another SHA-256 than {remote.sha256}. "
            "It was not kept; try again, or fetch it by hand."
        )
    part.replace(file)
    return file


def _download(remote: Remote, part: Path, progress: Progress) -> None:
    """Fill the partial file up to its end."""
    there = part.stat().st_size if part.exists() else 0
    with _told_where(remote, part), _request(remote.url, there) as response:
        if response.status == _UNSATISFIABLE:  # nothing is left to send; the checksum says whether it is right
            return
        resumed = response.status == _PARTIAL and _begins_at(response, there)
        if there and not resumed and response.status == _PARTIAL:
            raise http.client.HTTPException("the server sent another part than was asked for")
        done = there if resumed else 0
        left = response.headers.get("Content-Length")
        total = done + int(left) if left else None
        with part.open("ab" if resumed else "wb") as out:
            for chunk in iter(lambda: response.read(_CHUNK), b""):
                done += out.write(chunk)
                progress(remote.name, done, total)
        if total is not None and done < total:
            raise http.client.IncompleteRead(b"", total - done)


def _request(url: str, start: int) -> Any:
    # As stored, or the bytes would be those of another packing and could not be gone on with.
    headers = {"User-Agent": "fedsim", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == _UNSATISFIABLE and start:
            return error
        error.close()
        raise


def _begins_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


@contextmanager
def _told_where(remote: Remote, part: Path) -> Iterator[None]:
    """Failures of the network as one ``BadInput`` that says what is there and how to go on."""
    try:
        yield
    except (http.client.HTTPException, urllib.error.URLError, TimeoutError, ConnectionError, ValueError) as error:
        there = part.stat().st_size if part.exists() else 0
        kept = f" {there} bytes of it are kept in {part}; run the same command to go on." if there else ""
        raise BadInput(f"{remote.url} could not be downloaded: {str(error).rstrip('.')}.{kept}") from error


def _checksum(file: Path, packing: str) -> str:
    """SHA-256 of a file's content, unpacked as the suffix says; empty where it is torn."""
    digest = hashlib.sha256()
    try:
        with open_plain(file, packing) as content:
            for chunk in iter(lambda: content.read(_CHUNK), b""):
                digest.update(chunk)
    except TORN:
        return ""
    return digest.hexdigest()
