"""Server optimizers that ``torch.optim`` does not have, with the defaults of their papers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor


class FedAvgM(torch.optim.SGD):
    """Server momentum (Hsu et al. 2019, arXiv 1909.06335): ``v <- momentum v + g``, ``w <- w - lr v``."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1.0, momentum: float = 0.9) -> None:
        super().__init__(params, lr=lr, momentum=momentum)


class Adaptive(torch.optim.Optimizer, ABC):
    """``m <- beta1 m + (1 - beta1) g``, ``w <- w - lr m / (sqrt(v) + tau)``: no bias correction; v starts at tau^2.

    What v becomes is what the optimizers differ in (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, betas: tuple[float, float], tau: float, initial: float | None = None
    ) -> None:
        if not tau > 0:
            raise ValueError(f"Invalid tau or eps value: {tau}; it must be above 0")
        for number, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {number}: {beta}; it must be from 0 to below 1")
        initial = tau**2 if initial is None else initial
        if not initial >= 0:
            raise ValueError(f"Invalid initial value: {initial}; it must be at least 0")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "tau": tau, "initial": initial})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step against the gradients; ``closure`` is not used."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._move(weights, weights.grad, group)
        return None

    def _move(self, weights: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[weights], group["betas"]
        if not state:
            state["momentum"] = torch.zeros_like(weights)
            state["second_moment"] = torch.full_like(weights, group["initial"])
        momentum, second_moment = state["momentum"], state["second_moment"]
        momentum.lerp_(gradient, 1 - beta1)
        self.gather(second_moment, gradient.square(), beta2)
        weights.addcdiv_(momentum, second_moment.sqrt() + group["tau"], value=-group["lr"])

    @staticmethod
    @abstractmethod
    def gather(second_moment: Tensor, square: Tensor, beta2: float) -> None:
        """Take a squared gradient into the second moment, in place."""


class FedAdagrad(Adaptive):
    """Adagrad on the pseudo-gradient (Reddi et al. 2021, arXiv 2003.00295): ``v <- v + g^2``, without momentum."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.1, tau: float = 1e-3) -> None:
        super().__init__(params, lr, (0.0, 0.0), tau)

    @staticmethod
    def gather(second_moment: Tensor, square: Tensor, beta2: float) -> None:
        """The sum of all squares."""
        second_moment.add_(square)


class FedAdam(Adaptive):
    """Adam on the pseudo-gradient (Reddi et al. 2021, arXiv 2003.00295): ``v <- beta2 v + (1 - beta2) g^2``."""

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.1, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3
    ) -> None:
        super().__init__(params, lr, betas, tau)

    @staticmethod
    def gather(second_moment: Tensor, square: Tensor, beta2: float) -> None:
        """A decaying mean of the squares."""
        second_moment.lerp_(square, 1 - beta2)


class FedYogi(Adaptive):
    """Yogi on the pseudo-gradient (Reddi et al. 2021, arXiv 2003.00295): ``v <- v - (1 - beta2) g^2 sign(v - g^2)``."""

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.01, betas: tuple[float, float] = (0.9, 0.99), tau: float = 1e-3
    ) -> None:
        super().__init__(params, lr, betas, tau)

    @staticmethod
    def gather(second_moment: Tensor, square: Tensor, beta2: float) -> None:
        """Towards the square by a share of the square alone, so that v falls slowly."""
        second_moment.addcmul_(square, (second_moment - square).sign_(), value=beta2 - 1)


class Yogi(Adaptive):
    """Yogi (Zaheer et al. 2018, NeurIPS): FedYogi with the defaults that are usual outside federated learning."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-3,
        initial: float = 1e-6,
    ) -> None:
        super().__init__(params, lr, betas, eps, initial)

    gather = staticmethod(FedYogi.gather)


SERVER_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "fedavgm": FedAvgM,  # Hsu et al. 2019, arXiv 1909.06335
    "fedadagrad": FedAdagrad,  # Reddi et al. 2021, arXiv 2003.00295
    "fedadam": FedAdam,  # Reddi et al. 2021, arXiv 2003.00295
    "fedyogi": FedYogi,  # Reddi et al. 2021, arXiv 2003.00295
    "yogi": Yogi,  # Zaheer et al. 2018, NeurIPS
}
