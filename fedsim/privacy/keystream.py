"""The clients' random numbers: words of a ChaCha key stream, addressed by purpose, round, client and step.

A word depends on its address and the key alone, so no result depends on how clients are spread over blocks, workers or
machines, and any trainer can make exactly the words that it needs, on any device. ``secure`` keys come from the
operating system and give ChaCha20 (RFC 8439). ``reproducible`` ones come from the scenario's seed and protect nobody;
there 8 rounds are random enough (Aumasson 2019, eprint 2019/1492) and faster.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.seeding import Stream

# Blocks of 16 words are made 16 at a time, one in each lane of a vector register; a block gives five pairs of normals.
LANES = 16
PAIRS = 5
GROUP_NORMALS = LANES * PAIRS * 2
# So many blocks are made at once: they stay in the cache.
CHUNK = 1 << 14
CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)


@dataclass(frozen=True)
class Keystream:
    """A round's words; ``key`` has 32 bytes. With ``secure`` set a key serves one job only."""

    key: bytes
    round: int
    secure: bool = False

    @classmethod
    def of(cls, randomness: Literal["reproducible", "secure"], seed: int, round_: int) -> Keystream:
        """The stream of a scenario's seed, or one that nobody can predict or repeat."""
        if randomness == "secure":
            return cls(os.urandom(32), round_, secure=True)
        return cls(hashlib.sha256(f"fedsim {seed}".encode()).digest(), round_)

    def apart(self, purpose: Stream) -> Keystream:
        """Words for another pass over the same clients in the same round: they have nothing to do with these."""
        return replace(self, key=hashlib.sha256(self.key + int(purpose).to_bytes(1, "little")).digest())

    @property
    def rounds(self) -> int:
        """ChaCha's rounds."""
        return 20 if self.secure else 8

    def blocks(self, stream: Stream, clients: Tensor, step: int, count: int) -> Tensor:
        """The first ``count`` blocks at each client's address, as int32 bits ``[16, clients, count]``.

        Step below 2^24, round and client below 2^32. Made on the device of ``clients``.
        """
        counter = torch.arange(count, dtype=torch.int32, device=clients.device).repeat(len(clients))
        owner = clients.to(torch.int32).repeat_interleave(count)
        return self._made(stream, step, counter, owner).reshape(16, len(clients), count)

    def bits(self, stream: Stream, clients: Tensor, step: int, count: int) -> Tensor:
        """The first ``count`` words of 32 bits at each client's address, less 2^31, as int32 ``[clients, count]``."""
        words = self.blocks(stream, clients, step, -(-count // 16)).permute(1, 2, 0).flatten(1)
        return words[:, :count].bitwise_xor(-(2**31))

    def words(self, stream: Stream, clients: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The first ``counts[i]`` words of 64 bits of each client's step 0, one client after the other."""
        blocks = -(-counts // 8)
        first = np.cumsum(blocks) - blocks
        counter = np.arange(int(blocks.sum())) - np.repeat(first, blocks)
        owner = torch.from_numpy(np.repeat(clients, blocks)).to(torch.int32)
        made = self._made(stream, 0, torch.from_numpy(counter).to(torch.int32), owner)
        words = made.t().contiguous().numpy().view("<u8").reshape(-1)
        return words[np.arange(len(words)) - np.repeat(8 * first, 8 * blocks) < np.repeat(counts, 8 * blocks)]

    def normals(self, stream: Stream, clients: Tensor, step: int, count: int) -> Tensor:
        """Independent standard normals ``[clients, count]`` in float64.

        By Box and Muller 1958 from 64 bits of radius, which reaches 9.4 standard deviations, and 32 of angle.
        """
        groups = -(-count // GROUP_NORMALS)
        words = self.blocks(stream, clients, step, groups * LANES)
        high, low, angle = (words[at : 3 * PAIRS : 3].double() for at in range(3))
        high, low = (part + 2.0**32 * (part < 0) for part in (high, low))
        radius = ((high * 2.0**32 + low + 0.5) * 2.0**-64).log_().mul_(-2).sqrt_()
        turn = angle.mul_(2 * np.pi * 2.0**-32)
        pairs = torch.stack([radius * turn.cos(), radius * turn.sin()], dim=1)  # [pairs, 2, clients, blocks]
        lanes = pairs.reshape(2 * PAIRS, len(clients), groups, LANES).permute(1, 2, 0, 3)
        return lanes.flatten(1)[:, :count]

    def _made(self, stream: Stream, step: int, counter: Tensor, client: Tensor) -> Tensor:
        """Blocks ``[16, blocks]`` at these counters of these clients."""
        parts = zip(counter.split(CHUNK), client.split(CHUNK), strict=True)
        return torch.cat([self._chacha(stream, step, *part) for part in parts], dim=1)

    def _chacha(self, stream: Stream, step: int, counter: Tensor, client: Tensor) -> Tensor:
        """Blocks ``[16, blocks]``; the state's rows are [4, blocks], so that a step of the cipher is one operation."""
        words = [*CONSTANTS, *np.frombuffer(self.key, "<u4").tolist(), 0, (stream << 24) | step, self.round, 0]
        fixed = torch.tensor(words, dtype=torch.int64).to(torch.int32).to(counter.device)
        start = fixed[:, None].repeat(1, len(counter))
        start[12], start[15] = counter, client
        a, b, c, d = start.clone().reshape(4, 4, -1)
        for _ in range(self.rounds // 2):
            for shift in (1, -1):  # columns, then diagonals
                a += b
                _rotate(d.bitwise_xor_(a), 16)
                c += d
                _rotate(b.bitwise_xor_(c), 12)
                a += b
                _rotate(d.bitwise_xor_(a), 8)
                c += d
                _rotate(b.bitwise_xor_(c), 7)
                b, c, d = b.roll(-shift, 0), c.roll(2, 0), d.roll(shift, 0)
        return torch.cat([a, b, c, d]) + start


def _rotate(words: Tensor, by: int) -> None:
    """Rotate 32 bits to the left, in place; a right shift of a signed number brings ones in, which are masked."""
    low = (words >> (32 - by)).bitwise_and_((1 << by) - 1)
    torch.add(low, words, alpha=1 << by, out=words)
