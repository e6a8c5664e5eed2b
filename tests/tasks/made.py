"""Small data of every kind, made from a seed, and a model for texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.data.dataset import Dataset, Examples, Kind

ALPHABET = tuple("abcde")
LENGTH = 7


@dataclass(frozen=True)
class Made:
    """A source of 80 training and 30 test examples: vectors with classes or numbers, or pieces of text."""

    source: str = "made"
    kind: Kind = "classes"
    outputs: int = 2

    def load(self, seed: int) -> Dataset:
        """The data; what is predicted can be learnt."""
        rng = np.random.default_rng(seed)
        if self.kind == "tokens":
            return Dataset(texts(rng, 80), texts(rng, 30), ALPHABET, "tokens", len(ALPHABET))
        parts = [self._vectors(rng, count) for count in (80, 30)]
        return Dataset(*parts, tuple(f"name {number}" for number in range(self.outputs)), self.kind)

    def _vectors(self, rng: np.random.Generator, count: int) -> Examples:
        features = rng.uniform(0, 1, (count, 6)).astype(np.float32)
        sums = features[:, : self.outputs] + features[:, 3:4]
        return Examples(features, sums if self.kind == "numbers" else sums.argmax(1))


def texts(rng: np.random.Generator, count: int) -> Examples:
    """Pieces of text in which a letter is followed by the next or the same; some short, the first without a letter."""
    steps = rng.integers(0, 2, (count, LENGTH))
    letters = (rng.integers(0, 5, (count, 1)) + np.cumsum(steps, axis=1)) % 5
    labels = np.roll(letters, -1, axis=1)
    labels[:, -1] = -1
    labels[np.arange(LENGTH) >= rng.integers(1, LENGTH, (count, 1))] = -1
    labels[0] = -1
    return Examples(letters, labels)


class TinyText(nn.Module):
    """A vector for each letter, and from it the chances of the one that follows."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(ALPHABET), width)
        self.out = nn.Linear(width, len(ALPHABET))

    def forward(self, x: Tensor) -> Tensor:
        """From ``[batch, length]`` letters to ``[batch, length, letters]``."""
        return self.out(torch.tanh(self.embed(x)))
