"""What models of sequences share: tokens or numbers in, one vector per example or per position out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedsim.errors import BadInput
from fedsim.models.build import Signature
from fedsim.models.layers import Dropout

# Evaluation gives thousands of examples at once; what the layers hold for each is larger than the example.
EVALUATED_TOGETHER = 128


def check_sequence(name: str, signature: Signature) -> None:
    """Raise ``BadInput`` unless examples are tokens ``[length]`` or numbers ``[length, channels]`` with fit outputs."""
    wanted = "tokens [length]" if signature.vocabulary else "sequences of numbers [length, channels]"
    if len(signature.inputs) != (1 if signature.vocabulary else 2) or 0 in signature.inputs:
        raise BadInput(f'model.name = "{name}" needs {wanted}; an example here is {list(signature.inputs)}.')
    if len(signature.outputs) == 1 or (len(signature.outputs), signature.outputs[0]) == (2, signature.inputs[0]):
        return
    raise BadInput(
        f'model.name = "{name}" returns one vector per example or one per position; the task needs '
        f"{list(signature.outputs)} for examples of {list(signature.inputs)}."
    )


def per_position(signature: Signature) -> bool:
    """Whether every position has outputs of its own, which must not depend on later ones."""
    return len(signature.outputs) == 2


def embedding(signature: Signature, width: int) -> nn.Module:
    """A vector of ``width`` for each token, or a linear map of each position's numbers."""
    if signature.vocabulary:
        return nn.Embedding(signature.vocabulary, width)
    return nn.Linear(signature.inputs[1], width)


class SequenceModel(nn.Module):
    """Embeds, mixes positions in ``body``, then maps each position, or a summary of the example, to the outputs.

    Token 0 is "unknown" within a text and padding after its last other token; padding is not part of the summary.
    """

    def __init__(self, signature: Signature, embed: nn.Module, body: Body, dropout: float) -> None:
        super().__init__()
        self.tokens, self.each = signature.vocabulary > 0, per_position(signature)
        self.embed, self.body, self.drop = embed, body, Dropout(dropout)
        self.head = nn.Linear(body.width, signature.outputs[-1])

    def forward(self, x: Tensor) -> Tensor:
        """From ``[batch, length]`` tokens or ``[batch, length, channels]`` to ``[batch, *outputs]``."""
        if not torch.is_grad_enabled() and len(x) > EVALUATED_TOGETHER:
            return torch.cat([self(part) for part in x.split(EVALUATED_TOGETHER)])
        real = real_positions(x) if self.tokens and not self.each else None
        states = self.body(self.embed(x), real)
        result: Tensor = self.head(self.drop(states if self.each else self.body.summary(states, real)))
        return result


class Body(nn.Module):
    """The part of a sequence model that mixes positions; its states have ``width`` values."""

    width: int

    def summary(self, states: Tensor, real: Tensor | None) -> Tensor:
        """One vector ``[batch, width]`` of the ``real`` positions' states ``[batch, length, width]``, or of all."""
        raise NotImplementedError


def real_positions(tokens: Tensor) -> Tensor:
    """Which positions ``[batch, length]`` are not padding: those up to the last token that is not 0, but the first."""
    later = (tokens != 0).flip(1).cumsum(1).flip(1)
    first = torch.arange(tokens.shape[1], device=tokens.device) == 0
    return (later > 0) | first
