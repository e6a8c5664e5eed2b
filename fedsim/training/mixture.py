"""Two models of each client that are trained side by side on the same batches: one for the server, one for itself."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms import LocalTraining
from fedsim.optimizers import build_optimizer
from fedsim.training.trainer import Trained, Trainer, keep_first, step_gradient
from fedsim.training.work import Work, make_batch


@dataclass(frozen=True)
class Mixture:
    """Each client's mixture: ``alpha`` ``[clients, 1]`` of its own model and the rest of the shared one.

    ``alpha_rate`` is the learning rate of alpha; 0 leaves it as it is.
    """

    alpha: Tensor
    alpha_rate: float

    def of(self, own: Tensor, shared: Tensor) -> Float[Tensor, "clients params"]:
        """The mixed models of the first clients."""
        alpha = self.alpha[: len(own)]
        return alpha * own + (1 - alpha) * shared

    def moved(self, own: Tensor, shared: Tensor, gradient: Tensor) -> Mixture:
        """After a step of the first clients' alpha against the mixed models' ``gradient``, within 0 and 1."""
        alpha, active = self.alpha.clone(), len(own)
        alpha[:active] -= self.alpha_rate * ((own - shared) * gradient).sum(1, keepdim=True)
        return replace(self, alpha=alpha.clamp(0, 1))


class _Descent:
    """A stack of weights that an optimizer moves; clients that have finished leave it."""

    def __init__(self, local: LocalTraining, weights: Float[Tensor, "clients params"]) -> None:
        self.local, self.weights, self._ends = local, weights, torch.empty_like(weights)
        self._optimizer = build_optimizer(local.optimizer, weights, local.learning_rate, local.options)

    def keep(self, active: int) -> None:
        """Go on with the first clients only."""
        if active < len(self.weights):
            self._ends[active : len(self.weights)] = self.weights[active:]
            self.weights = keep_first(self._optimizer, self.weights, active)

    def step(self, gradient: Tensor) -> None:
        """One step of the optimizer."""
        self.weights.grad = self.local.scaled(gradient) + self.local.penalties(self.weights)
        self._optimizer.step()

    def ends(self) -> Tensor:
        """Where every client's weights ended."""
        self._ends[: len(self.weights)] = self.weights
        return self._ends


def train_mixed(
    trainer: Trainer, local: LocalTraining, starts: tuple[Tensor, Tensor], mixture: Mixture, work: Work
) -> tuple[Trained, Tensor, Tensor]:
    """Train the shared and the own models from ``starts``, each ``[clients, params]``.

    The shared one as always, with the noise of ``work``: its updates are what is returned first. The own one against
    the gradient of the mixture on the same batches, without noise; it and alpha, which takes one step in the first of
    them, come after it. The shared one depends on neither.
    """
    first = starts[0].clone()
    shared, own, result = _Descent(local, starts[0]), _Descent(local, starts[1]), Trained(first)
    for step in range(work.lengths.shape[1]):
        active = work.active(step)
        shared.keep(active)
        own.keep(active)
        gradient = _plain(trainer, mixture.of(own.weights, shared.weights), work, step)
        moved = mixture.moved(own.weights, shared.weights, gradient) if step == 0 else mixture
        shared.step(step_gradient(trainer, shared.weights, work, step, result))
        own.step(mixture.alpha[:active] * gradient)
        mixture = moved
    result.updates = shared.ends() - first
    return result, own.ends(), mixture.alpha


def _plain(trainer: Trainer, weights: Tensor, work: Work, step: int) -> Tensor:
    """The mean loss' gradient without noise; zero where DP-SGD's sampling drew no record."""
    batch = make_batch(trainer.task, work, step, trainer.dropout_layers, trainer.dropout_shapes)
    gradient = trainer.plain(weights, batch)
    return torch.where(batch.mask.any(1, keepdim=True), gradient, torch.zeros_like(gradient))
