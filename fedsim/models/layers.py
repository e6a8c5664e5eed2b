"""What models share: activations, normalisations, initialisations, and dropout whose draws are a client's own."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

Activation = Literal["relu", "tanh", "sigmoid", "gelu"]
Initialisation = Literal["default", "normal", "xavier", "he", "orthogonal"]
Normalisation = Literal["group", "layer", "none"]
Width = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0, lt=1)]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}


class Dropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with its mask from outside: a trainer draws it from the client's stream."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Multiply ``x`` by the mask while training; the identity in evaluation."""
        if not self.training or self.p == 0:
            return x
        if self.mask is None:
            raise RuntimeError("Dropout in training mode needs its mask set by the trainer")
        return x * self.mask


def dropout_layers(module: nn.Module) -> list[Dropout]:
    """The dropout layers that draw, in module order."""
    return [layer for layer in module.modules() if isinstance(layer, Dropout) and layer.p > 0]


def normalisation_layers(how: Normalisation, channels: int, least: int = 2) -> list[nn.Module]:
    """Group normalisation (Wu and He 2018, arXiv 1803.08494), in one group for ``layer``; nothing for ``none``.

    There are as many groups as divide the channels, at most 32 as in the paper, of ``least`` channels or more.
    """
    if how == "none":
        return []
    groups = max((g for g in range(1, min(32, channels // least) + 1) if channels % g == 0), default=1)
    return [nn.GroupNorm(1 if how == "layer" else groups, channels)]


def initialise(module: nn.Module, how: Initialisation | Literal["zero"], rng: torch.Generator) -> None:
    """Draw the weights of linear and convolution layers anew and zero their biases; ``default`` keeps torch's own."""
    if how == "default":
        return
    for layer in module.modules():
        if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            continue
        if how == "zero":
            nn.init.zeros_(layer.weight)
        elif how == "normal":
            nn.init.normal_(layer.weight, std=0.05, generator=rng)
        elif how == "xavier":
            nn.init.xavier_uniform_(layer.weight, generator=rng)
        elif how == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
        else:
            nn.init.orthogonal_(layer.weight, generator=rng)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
