"""Recurrent network for sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedsim.models.build import Signature
from fedsim.models.layers import Initialisation, Probability, Width
from fedsim.models.options import ModelOptions
from fedsim.models.recurrent import LSTM
from fedsim.models.sequence import Body, SequenceModel, check_sequence, embedding
from fedsim.settings import section


@section
@dataclass(frozen=True)
class Lstm(ModelOptions):
    """Long short-term memory over sequences of tokens or numbers (Hochreiter and Schmidhuber 1997).

    Tokens get an ``embedding`` of so many values (the sizes of McMahan et al. 2017, arXiv 1602.05629, are 8, 256 and 2
    layers); numbers enter as they are. For one vector per example the last state is used.
    """

    name: Literal["lstm"] = "lstm"
    hidden: Width = 64
    layers: Width = 1
    embedding: Width = 8
    dropout: Probability = 0.0
    initialisation: Initialisation = "default"

    def build(self, signature: Signature) -> nn.Module:
        """A ``SequenceModel``; raises ``BadInput`` if the examples are no sequences."""
        check_sequence(self.name, signature)
        embed = embedding(signature, self.embedding) if signature.vocabulary else nn.Identity()
        inputs = self.embedding if signature.vocabulary else signature.inputs[1]
        return SequenceModel(signature, embed, Recurrent(inputs, self), self.dropout)


class Recurrent(Body):
    """LSTM layers, whose last state sums an example up."""

    def __init__(self, inputs: int, settings: Lstm) -> None:
        super().__init__()
        self.width = settings.hidden
        self.lstm = LSTM(inputs, settings.hidden, settings.layers, batch_first=True, dropout=settings.dropout)

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """States ``[batch, length, hidden]``."""
        states: Tensor = self.lstm(x)[0]
        return states

    def summary(self, states: Tensor, real: Tensor | None) -> Tensor:
        """The state at the last real position."""
        if real is None:
            return states[:, -1]
        places = torch.arange(real.shape[1], device=real.device)
        last = places == real.sum(1, keepdim=True) - 1
        return (states * last.unsqueeze(2)).sum(1)
