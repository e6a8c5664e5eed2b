"""Cryptographic randomness for noise and sampling: a ChaCha20 key stream, keyed by the operating system.

A guarantee holds against somebody who cannot predict the draws; NumPy's generators can be predicted from their output.
"""

from __future__ import annotations

import os
from typing import Any, Literal, NoReturn, TypeVar, overload

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

Size = int | tuple[int, ...]
Real = TypeVar("Real", np.float32, np.float64)

# Words of 64 bits made at a time: they stay in the cache, 256 KiB.
SLICE = 1 << 15
# A key serves so many bytes, then the system gives a new one: the counter cannot wrap, and little can be traced back.
KEY_BYTES = 1 << 26
_ZEROS = memoryview(bytes(8 * SLICE))

# Grows in every forked child, so that it is told from its parent even if it got the process number of an ancestor.
_forks: list[int] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forks.append(os.getpid()))


def _process() -> tuple[int, int]:
    return os.getpid(), len(_forks)


class SecureGenerator:
    """What privacy draws of ``numpy.random.Generator``, from ChaCha20 (RFC 8439); it cannot be seeded, saved or copied.

    A forked child draws a key of its own. Not to be shared between threads: the cipher raises if two use it at once.
    """

    __slots__ = ("_left", "_process", "_stream")

    def __init__(self) -> None:
        self._rekey()

    def __repr__(self) -> str:
        return "SecureGenerator(ChaCha20, keyed by the operating system)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SecureGenerator cannot be pickled or copied: the same noise would be drawn twice")

    @overload
    def standard_normal(self, size: Size) -> NDArray[np.float64]: ...
    @overload
    def standard_normal(self, size: Size, dtype: type[Real]) -> NDArray[Real]: ...
    def standard_normal(self, size: Size, dtype: type[Any] = np.float64) -> NDArray[Any]:
        """Independent standard normals ``[*size]``, made in float64 and rounded once, to 12 standard deviations.

        The polar method (Marsaglia and Bray 1964). How many points it rejects does not depend on what it returns, so
        the time that it takes tells nothing about the noise.
        """
        values = np.empty(size, dtype)
        flat, done = values.reshape(-1), 0
        while done < len(flat):
            points = min(SLICE // 2, int(0.65 * (len(flat) - done)) + 8)  # pi / 4 of them are kept, two normals each
            made = polar_normals(_signed(self._words(points)), _signed(self._words(points)))[: len(flat) - done]
            flat[done : done + len(made)] = made
            done += len(made)
        return values

    def random(self, size: Size) -> NDArray[np.float64]:
        """Uniform multiples of 2^-53 in [0, 1) ``[*size]``."""
        values = np.empty(size, np.float64)
        flat = values.reshape(-1)
        for start in range(0, len(flat), SLICE):
            part = flat[start : start + SLICE]
            part[:] = (self._words(len(part)) >> np.uint64(11)) * 2.0**-53
        return values

    def binomial(self, n: int, p: float) -> int:
        """How many of ``n`` independent draws of probability ``p`` succeed, by making them all; raises ValueError."""
        if not 0 <= p <= 1 or n < 0:
            raise ValueError(f"a binomial needs n >= 0 and p in [0, 1], got {n} and {p}")
        starts = range(0, n, SLICE)
        return sum(int((self.random(min(SLICE, n - start)) < p).sum()) for start in starts)

    def choice(self, a: int, size: int, *, replace: Literal[False]) -> NDArray[np.int64]:
        """``size`` distinct numbers below ``a`` in random order, all equally likely; raises ValueError.

        Those with the least of ``a`` random keys, drawn anew if two keys that matter are equal, so that no order of
        the keys, which are exchangeable, is preferred.
        """
        if replace or not 0 <= size <= a:
            raise ValueError(f"only draws without replacement: got replace={replace}, {size} of {a}")
        if size == 0:
            return np.zeros(0, np.int64)
        while True:
            keys = self._words(a)
            least = np.argpartition(keys, size - 1)[:size]
            chosen = least[np.argsort(keys[least])]
            ordered = keys[chosen]
            if (ordered[1:] > ordered[:-1]).all() and int((keys <= ordered[-1]).sum()) == size:
                return chosen.astype(np.int64, copy=False)

    def permutation(self, x: int | NDArray[Any]) -> NDArray[Any]:
        """A random order of the numbers below ``x``, or of the rows of the array ``x``, all equally likely."""
        if isinstance(x, np.ndarray):
            return x[self.choice(len(x), len(x), replace=False)]
        return self.choice(x, x, replace=False)

    def _words(self, count: int) -> NDArray[np.uint64]:
        """The next ``[count]`` words of the key stream, never used again."""
        words = np.empty(count, np.uint64)
        room = words.view(np.uint8)
        for start in range(0, len(room), len(_ZEROS)):
            part = room[start : start + len(_ZEROS)]
            if self._left < len(part) or self._process != _process():
                self._rekey()
            self._stream.update_into(_ZEROS[: len(part)], part.data)
            self._left -= len(part)
        return words

    def _rekey(self) -> None:
        self._stream, self._left, self._process = key_stream(os.urandom(32)), KEY_BYTES, _process()


def key_stream(key: bytes) -> CipherContext:
    """ChaCha20 (RFC 8439) under a key of 32 bytes; every key is fresh, so nonce and counter may start at 0."""
    return Cipher(ChaCha20(key, nonce=bytes(16)), mode=None).encryptor()


def _signed(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform in [-1, 1]: 64 bits, so that next to 0, where the tails of the normal come from, the steps are 2^-63."""
    return np.asarray(words.view(np.int64) * 2.0**-63)


def polar_normals(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two normals of each point of the square ``[points]`` that lies inside the unit circle, but not at its centre."""
    squares = x * x + y * y
    kept = np.flatnonzero((squares < 1) & (squares > 0))
    squares = squares[kept]
    scale = np.sqrt(-2 * np.log(squares) / squares)
    return np.concatenate([x[kept] * scale, y[kept] * scale])
