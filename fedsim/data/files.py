"""Where a data source's files are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from fedsim.errors import BadInput


def find_files(source: str, path: str | None, wanted: list[str], published: str) -> list[Path]:
    """The files ``wanted`` (plain or with ``.gz``) in ``path``, else in ``$FEDSIM_DATA/<source>``.

    Raises ``BadInput`` that names every missing file, the folders searched and where the data is published.
    """
    folders = _folders(source, path)
    for folder in folders:
        found = [_existing(folder / name) for name in wanted]
        if all(found):
            return [file for file in found if file]
    searched = ", ".join(str(folder) for folder in folders) or "nowhere"
    hint = "" if path else " Set data.path, or the environment variable FEDSIM_DATA to the folder that holds it."
    raise BadInput(
        f'data.source = "{source}" needs the files {", ".join(wanted)} (plain or .gz); searched: {searched}.'
        f"{hint} Published at {published}."
    )


def _folders(source: str, path: str | None) -> list[Path]:
    if path is not None:
        return [Path(path).expanduser()]
    root = os.environ.get("FEDSIM_DATA")
    return [Path(root).expanduser() / source] if root else []


def _existing(file: Path) -> Path | None:
    for candidate in (file, file.with_name(file.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None
