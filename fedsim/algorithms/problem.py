"""What the clients of a block minimise in a round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LocalProblem:
    """Each client's loss plus ``pull / 2 |w - anchor|^2 + <linear, w>``, begun at ``start``.

    ``start`` and ``linear`` are ``[params]`` for all clients or ``[clients, params]``; ``anchor`` ``[params]`` is where
    the pull leads, the start if it is left out. All of it is added to the gradient that DP-SGD has noised, as
    post-processing, so it costs no privacy unless it is made of a client's records itself.
    """

    start: Tensor
    pull: float = 0.0
    anchor: Tensor | None = None
    linear: Tensor | None = None

    @property
    def centre(self) -> Tensor:
        """Where the pull leads ``[params]`` (or each client's own start)."""
        return self.start if self.anchor is None else self.anchor

    def rows(self, part: slice | Tensor) -> LocalProblem:
        """The problem of some of the clients."""
        linear = self.linear if self.linear is None or self.linear.dim() == 1 else self.linear[part]
        return replace(self, start=self.start if self.start.dim() == 1 else self.start[part], linear=linear)

    def starts(self, clients: int) -> Float[Tensor, "clients params"]:
        """A stack of the clients' weights when they begin, which may be written to."""
        return self.start.expand(clients, -1).clone(memory_format=torch.contiguous_format)

    def added(
        self, gradient: Float[Tensor, "clients params"], weights: Float[Tensor, "clients params"]
    ) -> Float[Tensor, "clients params"]:
        """The gradient of the first clients with what the problem adds to it."""
        active = slice(0, len(weights))
        if self.pull:
            centre = self.centre
            gradient = gradient + self.pull * (weights - (centre if centre.dim() == 1 else centre[active]))
        if self.linear is not None:
            gradient = gradient + (self.linear if self.linear.dim() == 1 else self.linear[active])
        return gradient
