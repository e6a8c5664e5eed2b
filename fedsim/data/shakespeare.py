"""Shakespeare's plays by speaking role, as in LEAF (Caldas et al. 2018, arXiv 1812.01097)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from fedsim.data.dataset import Dataset
from fedsim.data.files import find_files, read_text
from fedsim.data.published import Published, Remote
from fedsim.data.splitting import Fraction
from fedsim.data.tokens import Stretches
from fedsim.errors import BadInput
from fedsim.settings import Count, section

TINY = Remote(
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
)
FILES = {"plays_by_role": "plays_by_role.jsonl", "tinyshakespeare": TINY.name}
PAGE = (
    "www.gutenberg.org (the plays; one JSON line a speech: play, role, lines) and github.com/karpathy/char-rnn "
    "(tinyshakespeare.txt)"
)
Speech = tuple[str, str]  # its role, its text


@section
@dataclass(frozen=True)
class Shakespeare:
    """Next-character data of Shakespeare's plays; natural owners are the roles with ``min_speeches`` or more.

    ``edition = "plays_by_role"`` is all plays, one JSON line a speech, ``"tinyshakespeare"`` a text of 1.1 million
    characters. Examples are stretches of ``length`` characters; the last ``test_fraction`` of every role is held out.
    """

    source: Literal["shakespeare"] = "shakespeare"
    path: str | None = None
    edition: Literal["plays_by_role", "tinyshakespeare"] = "plays_by_role"
    min_speeches: Count = 2
    length: Count = 80
    test_fraction: Fraction = 0.2
    published: ClassVar[Published] = Published(PAGE, (TINY,))

    def load(self, seed: int) -> Dataset:
        """The roles' texts as tokens (the seed is not used); raises ``BadInput`` that names what is wrong and where."""
        file = find_files(self.source, self.path, [FILES[self.edition]], self.published)[0]
        read = _json_lines if self.edition == "plays_by_role" else _blocks
        roles: dict[str, list[str]] = {}
        for role, speech in read(file):
            roles.setdefault(role, []).append(speech)
        texts = [(role, "\n".join(said)) for role, said in roles.items() if len(said) >= self.min_speeches]
        data = Stretches(self.length, self.test_fraction).dataset(self.source, texts)
        few = len(roles) - len(texts)
        note = (f"{few} roles left out: they have fewer than {self.min_speeches} speeches.",) if few else ()
        return replace(data, notes=note + data.notes)


def _json_lines(file: Path) -> Iterator[Speech]:
    """A speech a line: ``{"play": ..., "role": ..., "lines": [...]}``; a role is one of its play."""
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            yield _speech(file, number, line)


def _speech(file: Path, number: int, line: str) -> Speech:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file}, line {number}, is not JSON: {error}.") from error
    row = row if isinstance(row, dict) else {}
    play, role, lines = row.get("play"), row.get("role"), row.get("lines")
    named = isinstance(play, str) and isinstance(role, str) and isinstance(lines, list)
    if not named or not all(isinstance(text, str) for text in lines):
        raise BadInput(f'{file}, line {number}, is no speech; {{"play": "...", "role": "...", "lines": ["..."]}} is.')
    return f"{play}: {role}", "\n".join(lines)


def _blocks(file: Path) -> Iterator[Speech]:
    """Blocks between empty lines, each the name of a role and a colon, then what it says."""
    role = ""
    for block in read_text(file).split("\n\n"):
        first, _, rest = block.strip("\n").partition("\n")
        named = first.endswith(":")
        role, said = (first[:-1], rest) if named else (role, block.strip("\n"))
        if not role:
            raise BadInput(f"{file} does not begin with a role: a name and a colon on a line of its own.")
        if said.strip():
            yield role, said
