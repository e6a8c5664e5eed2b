"""A block's reports on their way: in place, few at a time, with each client's own random words."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from fedsim.communication.base import Words
from fedsim.communication.channel import Channel
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream

# So many values are compressed at a time: what is between takes several times the memory of the reports.
CARRIED_VALUES = 1 << 22


class MakesWords(Protocol):
    """Whoever makes a key stream's words, as trainers do."""

    def words(
        self, keystream: Keystream, stream: Stream, clients: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """See ``Keystream``."""


def carry(
    channel: Channel,
    sent: tuple[Float[Tensor, "clients report"], Float[Tensor, "clients state"]],
    clients: NDArray[np.int64],
    maker: MakesWords,
    keystream: Keystream,
) -> None:
    """Replace reports by what the server makes of them, and what their ``clients`` had lost by what they lose."""
    reports, lost = sent
    if not channel.settings.compresses:
        return
    for rows in torch.arange(len(reports)).split(max(1, CARRIED_VALUES // reports.shape[1])):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        words = drawn_words(maker, keystream, clients[part], channel.words).to(reports.device)
        reports[part], lost[part] = channel.carried(reports[part], lost[part], words)


def drawn_words(maker: MakesWords, keystream: Keystream, clients: NDArray[np.int64], count: int) -> Words:
    """The round's words for compression, each client's own ``[clients, count]``."""
    pairs = -(-count // 2)
    made = maker.words(keystream, Stream.COMPRESSION, clients, np.full(len(clients), pairs))
    return torch.from_numpy(made.view("<i4").reshape(len(clients), 2 * pairs)[:, :count].copy())
