"""The server's optimizer: any ``torch.optim`` on the pseudo-gradient (Reddi et al. 2021, arXiv 2003.00295)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms import ServerOptimizer
from fedsim.optimizers import build_optimizer


class ServerStep:
    """Holds the global parameters ``[params]`` and the optimizer that moves them."""

    def __init__(self, settings: ServerOptimizer, start: Float[Tensor, " params"]) -> None:
        self.params = start.clone()
        self._optimizer = build_optimizer(settings.optimizer, self.params, settings.learning_rate, settings.options)

    def step(self, update: Float[Tensor, " params"]) -> None:
        """Step along the aggregated update: its negative is the pseudo-gradient."""
        self.params.grad = -update.to(self.params.dtype)
        self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Parameters and optimizer state by name, for the checkpoint."""
        state = self._optimizer.state.get(self.params, {})
        tensors = {f"optimizer.{name}": torch.as_tensor(value) for name, value in state.items() if value is not None}
        return {"params": self.params.detach(), **tensors}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take a state back from a checkpoint, bit for bit."""
        self.params.copy_(tensors["params"])
        prefix = "optimizer."
        state = {name.removeprefix(prefix): value.clone() for name, value in tensors.items() if name.startswith(prefix)}
        if state:
            # Vectors lie where the parameters do; torch keeps numbers, such as that of the steps, on the CPU.
            place = self.params.device
            self._optimizer.state[self.params] = {
                name: value.to(place) if value.dim() else value for name, value in state.items()
            }
