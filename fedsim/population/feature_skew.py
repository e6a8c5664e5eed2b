"""Feature skew: random records, but every client's features look different, by noise or by rotation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional

from fedsim.data.dataset import Examples
from fedsim.errors import BadInput
from fedsim.population.iid import Iid
from fedsim.population.population import Population
from fedsim.settings import NonNegative, section

ROTATED_AT_ONCE = 4096


@section
@dataclass(frozen=True)
class FeatureSkew:
    """Independent records, with Gaussian noise or a rotation of each client's own size in its features.

    Client i of n gets noise of variance ``noise`` x i / n (Li et al. 2022, arXiv 2102.02079, section 4.2), and its
    images are turned by an angle that is uniform between -``rotation_degrees`` and +``rotation_degrees``. Without
    either, the noise is 0.1.
    """

    kind: Literal["feature_skew"] = "feature_skew"
    noise: NonNegative | None = None
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] | None = None

    def __post_init__(self) -> None:
        if self.noise is None and self.rotation_degrees is None:
            object.__setattr__(self, "noise", 0.1)

    def split(self, examples: Examples, clients: int, rng: np.random.Generator) -> Population:
        """Deal the shuffled records out as ``iid`` does."""
        return Iid().split(examples, clients, rng)

    def skewed(self, examples: Examples, population: Population, rng: np.random.Generator) -> Examples:
        """The examples as their clients see them; raises ``BadInput`` for features that cannot be skewed so."""
        features = examples.features
        if not np.issubdtype(features.dtype, np.floating):
            raise BadInput('population.partition.kind = "feature_skew": texts have no noise or angle; use iid.')
        owners = np.empty(len(examples), np.int64)
        owners[population.indices] = np.repeat(np.arange(len(population)), population.sizes)
        if self.rotation_degrees:
            features = rotated(features, rng.uniform(-1, 1, len(population))[owners] * self.rotation_degrees)
        if self.noise:
            deviations = np.sqrt(self.noise * np.arange(1, len(population) + 1) / len(population))
            features = _noisy(features, deviations.astype(np.float32)[owners], rng)
        return Examples(features, examples.labels, examples.owners)


def _noisy(features: NDArray[Any], deviations: NDArray[np.float32], rng: np.random.Generator) -> NDArray[Any]:
    noise = rng.standard_normal(features.shape, np.float32)
    noise *= deviations.reshape(-1, *[1] * (features.ndim - 1))
    noise += features
    return noise


def rotated(images: NDArray[Any], degrees: NDArray[np.float64]) -> NDArray[Any]:
    """Images ``[n, channels, height, width]`` turned counter-clockwise, each by its own angle, bilinearly.

    What comes in from outside the picture repeats its edge. Raises ``BadInput`` for what is no image.
    """
    if images.ndim != 4:
        raise BadInput(
            f"population.partition.rotation_degrees: features of shape {images.shape[1:]} are no images "
            "(channels, height, width) that could be turned; use noise."
        )
    angles = torch.from_numpy(np.deg2rad(degrees).astype(np.float32))
    parts = zip(torch.from_numpy(images).split(ROTATED_AT_ONCE), angles.split(ROTATED_AT_ONCE), strict=True)
    return torch.cat([_turned(part, angle) for part, angle in parts]).numpy()


def _turned(images: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    height, width = images.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # Coordinates run from -1 to 1 along both sides, however long these are.
    rows = [torch.stack([cos, -sin * height / width, zero], 1), torch.stack([sin * width / height, cos, zero], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
