"""The Gaussian mechanism: the one function that draws privacy noise, and with it the event for the ledger."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream

Normals = Callable[[Keystream, Stream, Tensor, int, int], Tensor]


@runtime_checkable
class RandomSource(Protocol):
    """What the server's noise is drawn from: a NumPy generator, or a cryptographic stream."""

    def standard_normal(self, size: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Independent standard normals ``[size]``."""


@dataclass(frozen=True)
class Release:
    """A noised sum ``[params]``, a noised count (or None), and what both together spent."""

    total: Tensor
    count: float | None
    event: Event


def sum_noise_multiplier(noise_multiplier: float, count_noise: float | None) -> float:
    """The multiplier left for the sum when a centred count is released too with noise of deviation ``count_noise``.

    A centred bit is worth 1/2, so the count's multiplier is 2 count_noise, and the precisions of both add up to that of
    the event (Andrew et al. 2021, arXiv 1905.03871, theorem 1). Raises ValueError if the count alone costs too much.
    """
    if count_noise is None:
        return noise_multiplier
    rest = noise_multiplier**-2 - (2 * count_noise) ** -2
    if rest <= 0:
        raise ValueError(
            f"count_noise {count_noise:g} must exceed half the noise multiplier {noise_multiplier:g}: "
            "the count alone would spend the whole event"
        )
    return float(rest**-0.5)


@dataclass(frozen=True)
class GaussianSum:
    """Releases a sum of vectors that were each clipped to ``clip_norm`` (Dwork and Roth 2014; Abadi et al. 2016).

    With ``count_noise`` it releases a sum of centred bits (each -1/2 or 1/2) as well, at no further cost.
    """

    event: Event
    clip_norm: float
    count_noise: float | None = None

    @property
    def deviation(self) -> float:
        """Standard deviation of the noise on each value of the sum."""
        return sum_noise_multiplier(self.event.noise_multiplier, self.count_noise) * self.clip_norm

    def release(
        self,
        total: Tensor,
        rng: RandomSource,
        count: float | None = None,
        correlate: Callable[[Callable[[], Tensor]], Tensor] | None = None,
    ) -> Release:
        """Noise the sum ``[params]`` and the count; ``correlate`` makes correlated noise of fresh normals."""

        def fresh() -> Tensor:
            return torch.from_numpy(rng.standard_normal(total.shape[-1]))

        noise = fresh() if correlate is None else correlate(fresh)
        # Added in float64 and rounded once: noise rounded on its own has gaps that tell sums apart (Mironov 2012).
        noised = (total.cpu().double() + self.deviation * noise).to(total.device, total.dtype)
        if self.count_noise is None:
            return Release(noised, None, self.event)
        assert count is not None
        return Release(noised, count + self.count_noise * float(rng.standard_normal(1)[0]), self.event)


@dataclass(frozen=True)
class Releases:
    """Noised sums ``[clients, params]``, noised counts ``[clients]`` (or None), and the events that were spent."""

    totals: Tensor
    counts: Tensor | None
    spent: Counter[Event]


@dataclass(frozen=True)
class GaussianSums:
    """``GaussianSum`` for the rows of a block: row c belongs to ``clients[c]`` and releases ``events[kinds[c]]``.

    Noise is the client's own words of ``keystream`` at the step's address, so it is the same in any block.
    """

    clients: NDArray[np.int64]
    events: tuple[Event, ...]
    kinds: NDArray[np.int64]
    clip_norm: float
    count_noise: float | None
    keystream: Keystream
    stream: Stream

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviation of the noise on each value of each row's sum ``[clients]``."""
        own = [GaussianSum(event, self.clip_norm, self.count_noise).deviation for event in self.events]
        return np.array(own, np.float64)[self.kinds]

    def release(self, totals: Tensor, counts: Tensor, step: int, normals: Normals = Keystream.normals) -> Releases:
        """Noise the first rows' sums ``[rows, params]`` and centred counts ``[rows]`` in a step.

        ``normals`` may be a faster way to make the key stream's.
        """
        rows, size = totals.shape
        wanted = size + (self.count_noise is not None)
        clients = torch.from_numpy(self.clients[:rows]).to(totals.device)
        noise = normals(self.keystream, self.stream, clients, step, wanted)
        deviations = torch.from_numpy(self.deviations[:rows, None]).to(totals.device)
        # Added in float64 and rounded once: noise rounded on its own has gaps that tell sums apart (Mironov 2012).
        noised = (totals.double() + deviations * noise[:, :size]).to(totals.dtype)
        spent = self.spent(np.ones(rows, np.int64))
        if self.count_noise is None:
            return Releases(noised, None, spent)
        return Releases(noised, counts + self.count_noise * noise[:, size], spent)

    def spent(self, times: NDArray[np.int64]) -> Counter[Event]:
        """The events of rows that were noised so many ``times`` ``[rows]``."""
        spent: Counter[Event] = Counter()
        totals = np.bincount(self.kinds[: len(times)], weights=times, minlength=len(self.events))
        for event, total in zip(self.events, totals, strict=True):
            spent[event] += int(total)
        return +spent


def adapted(clip_norm: float, learning_rate: float, quantile: float, unclipped: float) -> float:
    """The next clip norm: smaller when more than the ``quantile`` of the norms lie below it.

    The step is bounded by a factor of e^learning_rate, so that a noisy share outside [0, 1] cannot throw it far.
    """
    share = min(max(unclipped, 0.0), 1.0)
    return clip_norm * math.exp(-learning_rate * (share - quantile))
