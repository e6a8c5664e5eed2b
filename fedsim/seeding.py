"""Random streams: one independent generator per purpose, round and client, so results depend on nothing else."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal

import numpy as np
import torch


class Stream(IntEnum):
    """The purposes; a number is part of every result, so never change one."""

    PARTITION = 1
    COHORT = 2
    BATCHES = 3
    NOISE = 4
    DROPOUT = 5
    INIT = 6
    SERVER_NOISE = 7
    SPLIT = 8
    LOCAL_NOISE = 9
    REPLAY = 10
    HELD_OUT = 21
    UNSEEN = 22
    FEATURES = 23
    FOLD = 24
    ATTACK = 25
    DEVICES = 26
    COMPRESSION = 27
    ROOT = 28
    PERSONAL = 29
    SWEEP = 30


def generator(seed: int, stream: Stream, round_: int = 0, client: int = 0) -> np.random.Generator:
    """A NumPy generator for one purpose in one round at one client."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(stream), round_, client))
    return np.random.Generator(np.random.SFC64(sequence))


def private_generator(
    randomness: Literal["reproducible", "secure"], stream: Stream, seed: int, round_: int = 0, client: int = 0
) -> Any:
    """The generator that a guarantee rests on: the scenario's stream, or a cryptographic one keyed by the system."""
    if randomness == "secure":
        from fedsim.privacy.secure import SecureGenerator

        return SecureGenerator()
    return generator(seed, stream, round_, client)


def torch_generator(seed: int, stream: Stream, round_: int = 0, client: int = 0) -> torch.Generator:
    """The same stream as a CPU ``torch.Generator``, for torch's own initialisers."""
    state = np.random.SeedSequence(seed, spawn_key=(int(stream), round_, client)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)
