"""Plain text of your own: a file, or a folder with one file for each owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedsim.data.dataset import Dataset
from fedsim.data.files import OPENERS, read_text
from fedsim.data.splitting import Fraction
from fedsim.data.tokens import Stretches
from fedsim.errors import BadInput
from fedsim.paths import expanded
from fedsim.settings import Count, section


@section
@dataclass(frozen=True)
class Text:
    """Next-character data of a text file, or of a folder with a file for each owner (UTF-8; plain, .gz or .xz).

    Examples are stretches of ``length`` characters; the last ``test_fraction`` of every file is held out.
    """

    path: str
    source: Literal["text"] = "text"
    length: Count = 80
    test_fraction: Fraction = 0.2

    def load(self, seed: int) -> Dataset:
        """The texts as tokens (the seed is not used); raises ``BadInput`` that names the file that cannot be read."""
        texts = ((_owner(file), read_text(file)) for file in self._files())
        return Stretches(self.length, self.test_fraction).dataset("text", texts)

    def _files(self) -> list[Path]:
        path = expanded("data.path", self.path)
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise BadInput(f'data.path = "{self.path}": there is no such text file or folder of text files.')
        files = [file for file in sorted(path.iterdir()) if file.is_file() and not file.name.startswith(".")]
        if not files:
            raise BadInput(f'data.path = "{self.path}": the folder has no files.')
        return files


def _owner(file: Path) -> str:
    return file.stem if file.suffix not in OPENERS else Path(file.stem).stem
