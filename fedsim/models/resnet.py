"""Residual network for images."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from fedsim.models.build import Signature, check_image
from fedsim.models.layers import (
    ACTIVATIONS,
    Activation,
    Dropout,
    Initialisation,
    Normalisation,
    Probability,
    Width,
    normalisation_layers,
)
from fedsim.models.options import ModelOptions
from fedsim.settings import section


@section
@dataclass(frozen=True)
class ResNet(ModelOptions):
    """Small residual network with group normalisation (He et al. 2016, arXiv 1512.03385; Wu and He 2018).

    ``blocks`` of two convolutions at each of ``widths``, the image half as large at each next width: those of He et
    al.'s section 4.2, with 6 ``blocks`` + 2 layers, and projections (option B) where the width changes.
    """

    name: Literal["resnet"] = "resnet"
    widths: Annotated[tuple[Width, ...], Field(min_length=1)] = (16, 32, 64)
    blocks: Width = 1
    activation: Activation = "relu"
    dropout: Probability = 0.0
    normalisation: Normalisation = "group"
    initialisation: Initialisation = "default"

    def build(self, signature: Signature) -> nn.Module:
        """From ``[batch, channels, height, width]`` to ``[batch, outputs]``; raises ``BadInput`` if it does not fit."""
        channels, first = check_image(self.name, signature)[0], self.widths[0]
        layers = [_convolution(channels, first, 1), *self._between(first)]
        for number, (inputs, outputs) in enumerate(pairwise((first, *self.widths))):
            layers.append(self._block(inputs, outputs, 2 if number else 1))
            layers += [self._block(outputs, outputs, 1) for _ in range(self.blocks - 1)]
        return nn.Sequential(
            *layers, MeanOfImage(), Dropout(self.dropout), nn.Linear(self.widths[-1], signature.outputs[0])
        )

    def _between(self, channels: int) -> list[nn.Module]:
        return [*normalisation_layers(self.normalisation, channels), ACTIVATIONS[self.activation]()]

    def _block(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        body = nn.Sequential(
            _convolution(inputs, outputs, stride),
            *self._between(outputs),
            _convolution(outputs, outputs, 1),
            *normalisation_layers(self.normalisation, outputs),
        )
        shortcut: list[nn.Module] = []
        if (inputs, stride) != (outputs, 1):
            shortcut = [nn.Conv2d(inputs, outputs, 1, stride), *normalisation_layers(self.normalisation, outputs)]
        return nn.Sequential(Residual(body, nn.Sequential(*shortcut)), ACTIVATIONS[self.activation]())


class Residual(nn.Module):
    """The sum of what two branches make of the same input."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """``body(x) + shortcut(x)``."""
        result: Tensor = self.body(x) + self.shortcut(x)
        return result


class MeanOfImage(nn.Module):
    """Every channel's mean over the image."""

    def forward(self, x: Tensor) -> Tensor:
        """From ``[batch, channels, height, width]`` to ``[batch, channels]``."""
        return x.mean((2, 3))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)
