"""Convolutional autoencoder for images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from fedsim.errors import BadInput
from fedsim.models.build import Signature
from fedsim.models.layers import ACTIVATIONS, Activation, Initialisation, Width
from fedsim.models.options import ModelOptions
from fedsim.settings import section

Size = tuple[int, int]


@section
@dataclass(frozen=True)
class Autoencoder(ModelOptions):
    """Convolutions of stride 2, ``bottleneck`` values, and transposed convolutions ("deconvolution") back.

    ``channels`` are those after each convolution; the decoder has the same ones in the other order (Hinton and
    Salakhutdinov 2006; Zeiler et al. 2010). For ``task = { kind = "reconstruction" }``.
    """

    name: Literal["autoencoder"] = "autoencoder"
    channels: Annotated[tuple[Width, ...], Field(min_length=1)] = (16, 32)
    bottleneck: Width = 32
    activation: Activation = "relu"
    initialisation: Initialisation = "default"

    def build(self, signature: Signature) -> nn.Module:
        """From ``[batch, channels, height, width]`` to the same; raises ``BadInput`` where that is not the task."""
        if signature.outputs != signature.inputs:
            raise BadInput(
                'model.name = "autoencoder" returns what it takes; set task = { kind = "reconstruction" }, or choose '
                "another model."
            )
        if len(signature.inputs) != 3:
            raise BadInput(
                'model.name = "autoencoder" needs images [channels, height, width]; an example here is '
                f"{list(signature.inputs)}."
            )
        colours, *size = signature.inputs
        channels, sizes = (colours, *self.channels), self._sizes((size[0], size[1]))
        deepest = (channels[-1], *sizes[-1])
        return nn.Sequential(
            *self._encoder(channels),
            nn.Flatten(),
            nn.Linear(math.prod(deepest), self.bottleneck),
            ACTIVATIONS[self.activation](),
            nn.Linear(self.bottleneck, math.prod(deepest)),
            ACTIVATIONS[self.activation](),
            nn.Unflatten(1, deepest),
            *self._decoder(channels[::-1], sizes[::-1]),
        )

    def _sizes(self, size: Size) -> list[Size]:
        """Height and width of the image and after each convolution: half of it, rounded up."""
        sizes = [size]
        for _ in self.channels:
            height, width = sizes[-1]
            sizes.append(((height + 1) // 2, (width + 1) // 2))
        return sizes

    def _encoder(self, channels: tuple[int, ...]) -> list[nn.Module]:
        layers: list[nn.Module] = []
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), ACTIVATIONS[self.activation]()]
        return layers

    def _decoder(self, channels: tuple[int, ...], sizes: list[Size]) -> list[nn.Module]:
        """Each doubles the size, or one less where the encoder rounded up; the last has no activation."""
        layers: list[nn.Module] = []
        for (before, after), (small, large) in zip(pairwise(channels), pairwise(sizes), strict=True):
            more = large[0] - (2 * small[0] - 1), large[1] - (2 * small[1] - 1)
            layers.append(nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=more))
            layers.append(ACTIVATIONS[self.activation]())
        return layers[:-1]
