"""Convolutional network for images."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from fedsim.errors import BadInput
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
from fedsim.models.mlp import dense_head
from fedsim.models.options import ModelOptions
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Convolution:
    """One convolution, its normalisation and activation, and a max-pooling."""

    channels: Width
    kernel: Width = 3
    stride: Width = 1
    padding: Annotated[int, Field(ge=0)] = 1
    pool: Width = 2
    pool_stride: Width = 2


@section
@dataclass(frozen=True)
class Cnn(ModelOptions):
    """Convolutions, then fully connected layers of the widths in ``hidden`` (LeCun et al. 1998).

    Parameters are called ``features.*`` and ``head.*``.
    """

    name: Literal["cnn"] = "cnn"
    convolutions: tuple[Convolution, ...] = (Convolution(16), Convolution(32))
    hidden: tuple[Width, ...] = (64,)
    activation: Activation = "relu"
    dropout: Probability = 0.0
    normalisation: Normalisation = "none"
    initialisation: Initialisation = "default"

    def build(self, signature: Signature) -> nn.Module:
        """From ``[batch, channels, height, width]`` to ``[batch, outputs]``; raises ``BadInput`` if it does not fit."""
        shape = check_image(self.name, signature)
        layers: list[nn.Module] = []
        channels = shape[0]
        for conv in self.convolutions:
            layers += [
                nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding),
                *normalisation_layers(self.normalisation, conv.channels),
                ACTIVATIONS[self.activation](),
                nn.MaxPool2d(conv.pool, conv.pool_stride),
            ]
            channels = conv.channels
        features = nn.Sequential(*layers, nn.Flatten())
        try:
            width = features(torch.zeros(1, *shape)).shape[1]
        except RuntimeError as error:
            raise BadInput(f"model.convolutions do not fit images of {list(shape)}: {error}.") from error
        head = dense_head([width, *self.hidden, math.prod(signature.outputs)], self.activation, self.dropout)
        features.append(Dropout(self.dropout))
        return nn.Sequential(OrderedDict(features=features, head=nn.Sequential(*head)))
