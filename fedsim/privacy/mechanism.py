"""The Gaussian mechanism: the one function that draws privacy noise, and with it the event for the ledger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedsim.privacy.events import Event


@dataclass(frozen=True)
class GaussianSum:
    """Releases a sum of vectors that were each clipped to ``clip_norm`` (Dwork and Roth 2014; Abadi et al. 2016)."""

    event: Event
    clip_norm: float

    def release(self, total: Tensor, rng: np.random.Generator) -> tuple[Tensor, Event]:
        """The sum ``[params]`` plus noise of standard deviation noise_multiplier * clip_norm, and what that spent."""
        noise = torch.from_numpy(rng.standard_normal(total.shape[-1], dtype=np.float32))
        scale = self.event.noise_multiplier * self.clip_norm
        return total + scale * noise.to(total.device, total.dtype), self.event
