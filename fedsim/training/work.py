"""A block's work in one round: which records its clients train on in which step, and where their noise comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from numpy.typing import NDArray
from torch import Tensor

from fedsim.models.layers import Dropout
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.mechanism import GaussianSums
from fedsim.seeding import Stream
from fedsim.tasks import Task

if TYPE_CHECKING:
    from fedsim.algorithms import LocalTraining

Records = NDArray[np.int64]
# Gives each client so many random words of 64 bits ``[clients]``, one client after the other.
Draw = Callable[[NDArray[np.int64]], NDArray[np.uint64]]


@dataclass(frozen=True)
class Work:
    """The batches of some clients, and their privacy.

    ``records`` holds record numbers, client after client and step after step; ``lengths`` ``[clients, steps]`` how many
    there are in each step, and -1 where a client has finished. Clients with more steps come first, so those that still
    train are always the first rows. ``denominator`` is the public batch size by which DP-SGD divides. ``again`` draws
    another pass over the clients' records, for what they train for themselves alone: without noise, and with words of
    its own. ``held`` is all that the clients hold.
    """

    clients: Records
    records: Records
    lengths: NDArray[np.int64]
    keystream: Keystream
    denominator: int
    noise: GaussianSums | None = None
    per_layer: bool = False
    again: Callable[[LocalTraining], Work] | None = None
    held: Held | None = None

    @cached_property
    def steps(self) -> NDArray[np.int64]:
        """Number of steps of each client ``[clients]``."""
        return np.asarray((self.lengths >= 0).sum(axis=1), np.int64)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where each step's records begin ``[clients, steps]``."""
        lengths = np.maximum(self.lengths, 0).reshape(-1)
        return (np.cumsum(lengths) - lengths).reshape(self.lengths.shape)

    def batch(self, row: int, step: int) -> Records:
        """The records of one client's step."""
        start = self.starts[row, step]
        return self.records[start : start + self.lengths[row, step]]

    def active(self, step: int) -> int:
        """How many clients train in a step: the first rows."""
        return int((self.lengths[:, step] >= 0).sum())

    def whole(self) -> Work:
        """One step of each client on all of its records at once; without privacy only, whose records are sampled."""
        assert self.held is not None
        assert self.noise is None, "DP-SGD trains on samples of the records"
        return replace(self, records=self.held.records(), lengths=self.held.sizes[:, None])

    def rows(self, start: int, stop: int) -> Work:
        """The work of some of the clients."""
        steps = int(self.steps[start:stop].max(initial=0))
        first, last = (int(np.maximum(self.lengths[:at], 0).sum()) for at in (start, stop))
        noise = self.noise and replace(
            self.noise, clients=self.noise.clients[start:stop], kinds=self.noise.kinds[start:stop]
        )
        return replace(
            self,
            clients=self.clients[start:stop],
            records=self.records[first:last],
            lengths=self.lengths[start:stop, :steps],
            noise=noise,
            again=None,
            held=self.held
            and replace(self.held, starts=self.held.starts[start:stop], sizes=self.held.sizes[start:stop]),
        )


@dataclass(frozen=True)
class Held:
    """What some clients hold: client c's records are ``indices[starts[c] : starts[c] + sizes[c]]``."""

    indices: Records
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def records(self) -> Records:
        """All of them, client after client."""
        ends = np.cumsum(self.sizes)
        own = np.arange(self.sizes.sum()) + np.repeat(self.starts - ends + self.sizes, self.sizes)
        return np.asarray(self.indices[own], np.int64)


def epoch_batches(
    held: Held, batch_size: int, steps: NDArray[np.int64], draw: Draw
) -> tuple[Records, NDArray[np.int64]]:
    """``records`` and ``lengths`` of ``steps`` ``[clients]`` batches each, from reshuffled passes over the records.

    A pass has the order of its records' random words (64 bits: a tie is no concern); its last batch may be smaller.
    """
    per_pass = np.maximum(-(-held.sizes // batch_size), 1)
    passes = -(-steps // per_pass)
    drawn, pass_sizes = passes * held.sizes, np.repeat(held.sizes, passes)
    pass_number = np.repeat(np.arange(len(pass_sizes)), pass_sizes)
    begins = np.repeat(held.starts, passes) - (np.cumsum(pass_sizes) - pass_sizes)
    shuffled = held.indices[_order(draw(drawn), pass_sizes, pass_number) + begins[pass_number]]
    number = np.arange(steps.max(initial=0))
    last = held.sizes - batch_size * (per_pass - 1)
    lengths = np.where(number % per_pass[:, None] == (per_pass - 1)[:, None], last[:, None], batch_size)
    lengths[number >= steps[:, None]] = -1
    unused = drawn - np.maximum(lengths, 0).sum(axis=1)
    if unused.any():
        shuffled = shuffled[np.arange(len(shuffled)) < np.repeat(np.cumsum(drawn) - unused, drawn)]
    return shuffled, lengths


def _order(keys: NDArray[np.uint64], sizes: NDArray[np.int64], group: NDArray[np.int64]) -> NDArray[np.intp]:
    """The order of ``keys`` within each of the groups of ``sizes``, one group after the other."""
    if len(sizes) and (sizes == sizes[0]).all():
        order = np.argsort(keys.reshape(len(sizes), -1), axis=1)
        return np.asarray((order + sizes[0] * np.arange(len(sizes))[:, None]).reshape(-1), np.intp)
    if len(sizes) < 1 << 24:
        # The group above, the first 40 bits of the key below: one sort for all, right unless two of them are equal.
        joint = (group.astype(np.uint64) << np.uint64(40)) | (keys >> np.uint64(24))
        order = np.argsort(joint)
        found = joint[order]
        if (found[1:] != found[:-1]).all():
            return order
    return np.lexsort((keys, group))


def poisson_batches(
    held: Held, rates: NDArray[np.float64], steps: NDArray[np.int64], draw: Draw
) -> tuple[Records, NDArray[np.int64]]:
    """``records`` and ``lengths`` of ``steps`` ``[clients]`` batches each.

    Every record takes part in each independently with probability ``rates`` ``[clients]``; some may be empty.
    """
    counts = steps * held.sizes
    thresholds = np.where(rates < 1, rates, 0.0) * 2.0**64
    taken = draw(counts) < np.repeat(thresholds.astype(np.uint64), counts)
    taken |= np.repeat(rates >= 1, counts)
    chosen = np.flatnonzero(taken)
    ends = np.cumsum(counts)
    row = np.searchsorted(ends, chosen, side="right")
    step, place = np.divmod(chosen - (ends - counts)[row], held.sizes[row])
    width = int(steps.max(initial=0))
    lengths = np.bincount(row * width + step, minlength=len(steps) * width).reshape(len(steps), width)
    lengths[np.arange(width) >= steps[:, None]] = -1
    return held.indices[held.starts[row] + place], lengths


@dataclass(frozen=True)
class Batch:
    """One step's examples of several clients, padded to one length; ``mask`` marks the real ones."""

    features: Shaped[Tensor, "clients batch ..."]
    labels: Shaped[Tensor, "clients batch ..."]
    mask: Bool[Tensor, "clients batch"]
    dropout_masks: list[Tensor]

    @property
    def counts(self) -> list[int]:
        """Number of real examples of each client."""
        return [int(count) for count in self.mask.sum(1)]


def make_batch(task: Task, work: Work, step: int, layers: list[Dropout], shapes: list[tuple[int, ...]]) -> Batch:
    """Gather a step of the clients that still train, and their dropout masks (``shapes`` of one example).

    A place without an example repeats the last of the client's own: another's could be NaN, and 0 times NaN is NaN.
    """
    active = work.active(step)
    lengths = work.lengths[:active, step, None]
    places = np.arange(max(1, int(lengths.max(initial=0))))
    mask = places < lengths
    index = work.starts[:active, step, None] + np.minimum(places, np.maximum(lengths - 1, 0))
    records = work.records[np.minimum(index, len(work.records) - 1)] if len(work.records) else np.zeros_like(index)
    device = task.features.device
    where = torch.from_numpy(np.where(lengths > 0, records, 0)).to(device)
    dropped = dropout_masks(work, step, len(places), layers, shapes, device)
    flat, real = where.reshape(-1), torch.from_numpy(mask).to(device)
    features = task.features.index_select(0, flat).view(*where.shape, *task.features.shape[1:])
    labels = task.labels.index_select(0, flat).view(*where.shape, *task.labels.shape[1:])
    return Batch(features, labels, real, dropped)


def dropout_masks(
    work: Work, step: int, longest: int, layers: list[Dropout], shapes: list[tuple[int, ...]], device: torch.device
) -> list[Tensor]:
    """Masks ``[clients, batch, *shape]`` of each layer, holding 0 or 1 / (1 - p), from each client's own words.

    An example's words are those of its place in the batch: first those of the first layer, then of the next.
    """
    if not layers:
        return []
    sizes = [int(np.prod(shape)) for shape in shapes]
    clients = torch.from_numpy(work.clients[: work.active(step)]).to(device)
    words = work.keystream.bits(Stream.DROPOUT, clients, step, longest * sum(sizes))
    parts = words.reshape(len(clients), longest, -1).split(sizes, dim=-1)
    return [
        ((part >= threshold(layer.p) - 2**31).float() / (1 - layer.p)).reshape(len(clients), longest, *shape)
        for layer, shape, part in zip(layers, shapes, parts, strict=True)
    ]


def threshold(p: float) -> int:
    """Words of 32 bits below this drop their value."""
    return int(p * 2**32)
