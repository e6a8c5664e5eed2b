"""The Gaussian mechanism: the one function that draws privacy noise, and with it the event for the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.events import Event


@runtime_checkable
class RandomSource(Protocol):
    """What privacy draws from: a NumPy generator, or a cryptographic stream."""

    def random(self, size: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Independent uniforms in [0, 1)."""

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


def adapted(clip_norm: float, learning_rate: float, quantile: float, unclipped: float) -> float:
    """The next clip norm: smaller when more than the ``quantile`` of the norms lie below it.

    The step is bounded by a factor of e^learning_rate, so that a noisy share outside [0, 1] cannot throw it far.
    """
    share = min(max(unclipped, 0.0), 1.0)
    return clip_norm * math.exp(-learning_rate * (share - quantile))
