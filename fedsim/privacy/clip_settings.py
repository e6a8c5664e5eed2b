"""How a clip norm is applied: to the whole vector, to each parameter, or adapting over the rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from fedsim.settings import Positive, section


@section
@dataclass(frozen=True)
class FixedClip:
    """All parameters together are clipped to ``clip_norm``."""

    kind: Literal["fixed"] = "fixed"


@section
@dataclass(frozen=True)
class PerLayerClip:
    """Each of the L parameter tensors is clipped to ``clip_norm / sqrt(L)``, so that together they stay below it.

    Source: McMahan et al. 2018 (arXiv 1812.06210), section 2.
    """

    kind: Literal["per_layer"] = "per_layer"


@section
@dataclass(frozen=True)
class AdaptiveClip:
    """The clip norm follows a quantile of the norms: ``C <- C exp(-learning_rate (b - quantile))``.

    b, the unclipped share, is estimated from a noised count of deviation ``count_noise``, by default a twentieth of the
    expected count; the noise on the sum is raised so that both releases together cost what the scenario's
    ``noise_multiplier`` says. Source: Andrew et al. 2021 (arXiv 1905.03871).
    """

    kind: Literal["adaptive"] = "adaptive"
    quantile: Annotated[float, Field(gt=0, lt=1)] = 0.5
    learning_rate: Positive = 0.2
    count_noise: Positive | None = None


Clipping = FixedClip | PerLayerClip | AdaptiveClip
EXAMPLE_CLIPPING = {"fixed": FixedClip, "per_layer": PerLayerClip, "adaptive": AdaptiveClip}
CLIENT_CLIPPING = {"fixed": FixedClip, "adaptive": AdaptiveClip}
