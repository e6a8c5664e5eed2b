"""Every compression written out value by value in plain Python: what the fast ones must agree with."""

from __future__ import annotations

import hashlib
import math

import numpy as np

from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream


def top_k(row, words, share):
    """Sort by magnitude, the first of equal ones first; keep the first k."""
    kept = sorted(range(len(row)), key=lambda place: (-abs(row[place]), place))[: max(1, round(share * len(row)))]
    return [row[place] if place in kept else 0.0 for place in range(len(row))]


def random_k(row, words, share, unbiased):
    """Keep the places with the largest words that the seed gives."""
    count, size = max(1, round(share * len(row))), len(row)
    key = hashlib.sha256(b"fedsim.communication.random_k").digest()
    pairs = Keystream(key, 0).words(Stream.COMPRESSION, np.array([words[0]]), np.array([-(-size // 2)]))
    scores = [int(word) for pair in pairs for word in (pair & 0xFFFFFFFF, pair >> 32)][:size]
    kept = sorted(range(size), key=lambda place: (-scores[place], place))[:count]
    return [row[place] * (size / count if unbiased else 1.0) if place in kept else 0.0 for place in range(size)]


def levelled(row, words, scale, levels):
    """Alistarh et al. 2017, section 3.1: to one of the two nearest levels, by a uniform number of 24 bits."""
    result = []
    for place, value in enumerate(row):
        height = float(np.float32(np.float32(abs(value)) / np.float32(scale)) * np.float32(levels)) if scale else 0.0
        if words is None:
            level = round(height)
        else:
            chance = ((int(words[place]) % 2**32) >> 8) / 2**24
            level = math.floor(height) + (chance < height - math.floor(height))
        result.append(math.copysign(level / levels * scale, value))
    return result


def qsgd(row, words, bits):
    """Levels of the norm."""
    scale = float(np.float32(math.sqrt(math.fsum(value * value for value in row))))
    return levelled(row, words, scale, 2 ** (bits - 1) - 1)


def int8(row, words, rounding):
    """Levels of the largest."""
    return levelled(row, words if rounding == "stochastic" else None, max(map(abs, row)), 127)


def sign(row, words):
    """The mean magnitude with each value's sign."""
    scale = math.fsum(map(abs, row)) / len(row)
    return [scale if value >= 0 else -scale for value in row]


def fp16(row, words):
    """NumPy's half precision."""
    return [float(np.float16(np.clip(value, -65504, 65504))) for value in row]


def none(row, words):
    """The row."""
    return row
