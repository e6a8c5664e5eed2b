"""Self-attention network for sequences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedsim.errors import BadInput
from fedsim.models.attention import EncoderLayer
from fedsim.models.build import Signature
from fedsim.models.layers import Activation, Initialisation, Probability, Width
from fedsim.models.options import ModelOptions
from fedsim.models.sequence import Body, SequenceModel, check_sequence, embedding, per_position
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Transformer(ModelOptions):
    """Self-attention over sequences of tokens or numbers (Vaswani et al. 2017, arXiv 1706.03762).

    For one vector per example every position sees all others and their mean is used; for one per position each sees
    those before it and itself. Positions are told by sines and cosines.
    """

    name: Literal["transformer"] = "transformer"
    width: Width = 64
    heads: Width = 4
    layers: Width = 2
    feedforward: Width = 128
    activation: Activation = "gelu"
    dropout: Probability = 0.0
    initialisation: Initialisation = "default"

    def build(self, signature: Signature) -> nn.Module:
        """A ``SequenceModel``; raises ``BadInput`` if the examples are no sequences or the heads do not divide."""
        check_sequence(self.name, signature)
        if self.width % self.heads:
            raise BadInput(f"model.heads = {self.heads}: must divide model.width = {self.width}.")
        body = Encoder(self, causal=per_position(signature))
        return SequenceModel(signature, embedding(signature, self.width), body, self.dropout)


class Encoder(Body):
    """Encoder layers and a last normalisation; ``causal`` ones hide later positions."""

    def __init__(self, settings: Transformer, causal: bool) -> None:
        super().__init__()
        self.width, self.causal = settings.width, causal
        sizes = settings.width, settings.heads, settings.feedforward
        self.layers = nn.ModuleList(
            EncoderLayer(*sizes, settings.activation, settings.dropout) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """States ``[batch, length, width]``; padding is not attended to."""
        length = x.shape[1]
        x = x + positions(length, self.width, x)
        ones = torch.ones(length, length, dtype=torch.bool, device=x.device)
        mask, padding = (ones.triu(1) if self.causal else None), (None if real is None else ~real)
        for layer in self.layers:
            x = layer(x, mask, padding)
        states: Tensor = self.norm(x)
        return states

    def summary(self, states: Tensor, real: Tensor | None) -> Tensor:
        """The mean over the real positions."""
        if real is None:
            return states.mean(1)
        return (states * real.unsqueeze(2)).sum(1) / real.sum(1, keepdim=True)


def positions(length: int, width: int, like: Tensor) -> Tensor:
    """Sines and cosines ``[length, width]`` of each position at wavelengths from 2 pi to 10,000 times 2 pi."""
    place = torch.arange(length, device=like.device, dtype=like.dtype).unsqueeze(1)
    rates = torch.exp(torch.arange(0, width, 2, device=like.device, dtype=like.dtype) * (-math.log(10_000) / width))
    return torch.stack([(place * rates).sin(), (place * rates).cos()], 2).flatten(1)[:, :width]
