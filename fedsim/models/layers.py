"""Pieces the models share: activations, initialisations, and dropout whose draws belong to a client's own stream."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["relu", "tanh", "sigmoid", "gelu"]
Initialisation = Literal["default", "normal", "xavier", "he", "orthogonal"]

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


def replace_dropout(module: nn.Module) -> None:
    """Swap every ``nn.Dropout`` inside a user's module for ours, which uses no global random generator."""
    for name, child in list(module._modules.items()):  # not named_children, which skips a layer that is there twice
        if isinstance(child, nn.Dropout):
            setattr(module, name, Dropout(child.p))
        elif child is not None:
            replace_dropout(child)


def dropout_layers(module: nn.Module) -> list[Dropout]:
    """The dropout layers that draw, in module order."""
    return [layer for layer in module.modules() if isinstance(layer, Dropout) and layer.p > 0]


def initialise(module: nn.Module, how: Initialisation, rng: torch.Generator) -> None:
    """Draw the weights of linear and convolution layers anew and zero their biases; ``default`` keeps torch's own."""
    if how == "default":
        return
    for layer in module.modules():
        if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            continue
        if how == "normal":
            nn.init.normal_(layer.weight, std=0.05, generator=rng)
        elif how == "xavier":
            nn.init.xavier_uniform_(layer.weight, generator=rng)
        elif how == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
        else:
            nn.init.orthogonal_(layer.weight, generator=rng)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
