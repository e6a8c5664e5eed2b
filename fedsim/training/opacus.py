"""The reference trainer: one client after the other, per-example gradients and DP optimizer by Opacus.

Source: Yousefpour et al. 2021, arXiv 2109.12298.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedsim.params import bind_vector
from fedsim.privacy.clipping import add_clipped, clip_factors, narrowed
from fedsim.tasks import Task
from fedsim.training.trainer import Trainer
from fedsim.training.work import Batch

# Opacus holds one gradient per example; larger batches go through in pieces of this many examples.
PIECE = 256


class OpacusTrainer(Trainer):
    """Plain PyTorch without privacy; with it, ``GradSampleModule`` and a DP optimizer that contains NaN."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        super().__init__(module, task)
        self._wrapped: GradSampleModule | None = None

    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over its real examples, by ``backward``."""
        self.module.train()
        if self._wrapped is not None:
            self._wrapped.disable_hooks()  # they would keep every example's gradient, of which nobody here has use
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        rows = []
        for row, count in enumerate(batch.counts):
            bind_vector(self.module, weights[row])
            loss = self._losses(self.module, batch, row, slice(0, count)).mean()
            with _unused_inputs():
                gradients = torch.autograd.grad(loss, parameters)
            rows.append(torch.cat([g.reshape(-1) for g in gradients]))
        return torch.stack(rows)

    def clipped(
        self, weights: Float[Tensor, "clients params"], batch: Batch, clip_norm: float, per_layer: bool = False
    ) -> tuple[Float[Tensor, "clients params"], Float[Tensor, " clients"]]:
        """DP-SGD's clipped sums, by Opacus' per-example gradients."""
        rows, counts = [], []
        for row in range(len(weights)):
            bind_vector(self.module, weights[row])
            total, count = self._clipped_row(batch, row, clip_norm, per_layer)
            rows.append(total)
            counts.append(count)
        return torch.stack(rows), torch.tensor(counts, dtype=torch.float64)

    def add_clipped(
        self,
        total: Float[Tensor, " params"],
        updates: Float[Tensor, "clients params"],
        clip_norm: float,
        weights: Tensor,
    ) -> Float[Tensor, " clients"]:
        """One after the other, so that the block that a client is in does not show in the sum's rounding."""
        rows = zip(updates.split(1), weights.split(1), strict=True)
        return torch.cat([add_clipped(total, update, clip_norm, weight) for update, weight in rows])

    def forget(self) -> None:
        """Wrap the module anew: activations of a pass that did not end would be taken for the next one's."""
        if self._wrapped is not None:
            self._wrapped.to_standard_module()
            self._wrapped = None
            for layer in self.module.modules():
                layer.__dict__.pop("activations", None)
                layer.__dict__.pop("max_batch_len", None)
        super().forget()

    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """Weights, gradient and optimizer state; per-example gradients exist for one client at a time."""
        return 4 * self.layout.size * 8

    def _clipped_row(self, batch: Batch, row: int, clip_norm: float, per_layer: bool) -> tuple[Tensor, float]:
        wrapped = self._wrap()
        optimizer = _NanSafeOptimizer.of(wrapped, clip_norm, per_layer)
        for start in range(0, batch.counts[row], PIECE):
            part = slice(start, min(start + PIECE, batch.counts[row]))
            losses = self._losses(wrapped, batch, row, part)
            with _unused_inputs():
                losses.sum().backward()
            optimizer.clip_and_accumulate()
            wrapped.zero_grad()
        return optimizer.total(), optimizer.count

    def _wrap(self) -> GradSampleModule:
        if self._wrapped is None:
            self._wrapped = GradSampleModule(self.module, loss_reduction="sum")
            self._wrapped.forbid_grad_accumulation()
        self._wrapped.enable_hooks()
        return self._wrapped.train()

    def _losses(self, module: nn.Module, batch: Batch, row: int, part: slice) -> Tensor:
        for layer, masks in zip(self.dropout_layers, batch.dropout_masks, strict=True):
            layer.mask = masks[row, part]
        return self.task.losses(module(batch.features[row, part]), batch.labels[row, part])


@contextmanager
def _unused_inputs() -> Iterator[None]:
    """The inputs need no gradient, which torch reports for every module hook of Opacus."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


class _NanSafeOptimizer(DPOptimizer):
    """Opacus' DP optimizer with float64 norms, and NaN gradients counted as zero; noise is added elsewhere."""

    def __init__(self, per_layer: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.per_layer, self.count = per_layer, 0.0

    @classmethod
    def of(cls, wrapped: GradSampleModule, clip_norm: float, per_layer: bool) -> _NanSafeOptimizer:
        """The optimizer of a wrapped module."""
        parameters = [p for p in wrapped.parameters() if p.requires_grad]
        return cls(
            per_layer,
            optimizer=torch.optim.SGD(parameters, lr=0.0),
            noise_multiplier=0.0,
            max_grad_norm=clip_norm,
            expected_batch_size=1,
        )

    def clip_and_accumulate(self) -> None:
        """Add the clipped per-example gradients of one piece to ``summed_grad``."""
        samples = [sample.flatten(1) for sample in self.grad_samples]
        norms = torch.stack([torch.linalg.vector_norm(s, dim=1, dtype=torch.float64) for s in samples]).norm(dim=0)
        self.count += float(((norms <= self.max_grad_norm).double() - 0.5).sum())
        share = self.max_grad_norm / len(samples) ** 0.5
        for p, sample in zip(self.params, samples, strict=True):
            finite = torch.where(torch.isfinite(norms)[:, None], sample, torch.zeros_like(sample))
            own = torch.linalg.vector_norm(finite, dim=1, dtype=torch.float64)
            factors = clip_factors(own, share) if self.per_layer else clip_factors(norms, self.max_grad_norm)
            total = (narrowed(factors, sample.dtype) @ finite).view_as(p)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

    def total(self) -> Tensor:
        """The clipped sum ``[params]``; zero after an empty batch."""
        parts = [torch.zeros_like(p) if p.summed_grad is None else p.summed_grad for p in self.params]
        return torch.cat([part.reshape(-1) for part in parts])
