"""What the sources of text share: a fixed public alphabet, and stretches of text with the characters that follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedsim.data.dataset import Dataset, Examples
from fedsim.errors import BadInput

# Fixed and public: an alphabet taken from the texts would tell which characters somebody has used.
ALPHABET = "\n" + "".join(chr(code) for code in range(32, 127))
UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # stands for token 0: padding, and any character outside the alphabet
NAMES = (UNKNOWN, *ALPHABET)
NONE = -1  # the label where no character follows

_CODES = np.zeros(128, np.int64)
_CODES[[ord(character) for character in ALPHABET]] = np.arange(1, len(NAMES))


@dataclass(frozen=True)
class Stretches:
    """How texts become examples: stretches of ``length`` characters; the last part of each text is for tests."""

    length: int = 80
    test_fraction: float = 0.2

    def dataset(self, source: str, texts: Iterable[tuple[str, str]]) -> Dataset:
        """Next-character data of (owner, text) pairs, one text an owner, in their order.

        Features and labels are ``[n, length]`` int64. Owners whose text gives nothing to train on are left out and
        counted, as are characters outside the alphabet. Raises ``BadInput`` when nothing is left.
        """
        kept: list[str] = []
        splits: tuple[list[_Pairs], list[_Pairs]] = ([], [])
        unknown = dropped = 0
        for owner, text in texts:
            tokens = encode(text)
            cut = len(tokens) - round(self.test_fraction * len(tokens))
            if cut < 2:  # no character has one that follows
                dropped += 1
                continue
            unknown += int((tokens == 0).sum())
            kept.append(owner)
            splits[0].append(stretches(tokens[:cut], self.length))
            splits[1].append(stretches(tokens[cut:], self.length))
        if not any(len(features) for features, _ in splits[1]):
            raise BadInput(f'data.source = "{source}": no text is long enough to train and to test on.')
        train, test = (_examples(split) for split in splits)
        notes = (
            f"{dropped} owners left out: their texts are too short.",
            f"{unknown} characters are outside the fixed alphabet and stand as unknown.",
        )
        found = tuple(note for note, count in zip(notes, (dropped, unknown), strict=True) if count)
        return Dataset(train, test, NAMES, "tokens", len(NAMES), tuple(kept), found)


_Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def encode(text: str) -> NDArray[np.int64]:
    """The tokens of a text ``[characters]``; 0 stands for characters outside the alphabet."""
    points = np.frombuffer(text.encode("utf-32-le", "replace"), "<u4")
    return np.where(points < len(_CODES), _CODES[np.minimum(points, len(_CODES) - 1)], 0)


def stretches(tokens: NDArray[np.int64], length: int) -> _Pairs:
    """Tokens ``[n, length]`` and for each the one that follows; the last stretch is padded with 0 and -1."""
    pairs = max(0, len(tokens) - 1)
    rows = -(-pairs // length)
    features, labels = np.zeros(rows * length, np.int64), np.full(rows * length, NONE, np.int64)
    features[:pairs], labels[:pairs] = tokens[:-1], tokens[1:]
    return features.reshape(rows, length), labels.reshape(rows, length)


def _examples(parts: list[_Pairs]) -> Examples:
    owners = np.repeat(np.arange(len(parts)), [len(features) for features, _ in parts])
    features, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Examples(features, labels, owners)
