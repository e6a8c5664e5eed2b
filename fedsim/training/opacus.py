"""The reference trainer: one client after the other, per-example gradients and DP optimizer by Opacus.

Source: Yousefpour et al. 2021, arXiv 2109.12298.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from fedsim.params import bind_vector
from fedsim.privacy.clipping import clip_factors, narrowed
from fedsim.privacy.mechanism import Release
from fedsim.tasks import Classification
from fedsim.training.gradients import Gradients
from fedsim.training.work import Batch, ClientWork

# Opacus holds one gradient per example; larger batches go through in pieces of this many examples.
PIECE = 256


class OpacusGradients(Gradients):
    """Plain PyTorch without privacy; with it, ``GradSampleModule`` and a DP optimizer that contains NaN."""

    def __init__(self, module: nn.Module, task: Classification) -> None:
        super().__init__(module, task)
        self._wrapped: GradSampleModule | None = None

    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over its real examples, by ``backward``."""
        self.module.train()
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        rows = []
        for row, count in enumerate(batch.counts):
            bind_vector(self.module, weights[row])
            loss = self._losses(self.module, batch, row, slice(0, count)).mean()
            rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
        return torch.stack(rows)

    def private(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """DP-SGD's gradient of every client, by Opacus."""
        rows = []
        for row, work in enumerate(batch.works):
            bind_vector(self.module, weights[row])
            rows.append(self._private_row(batch, row, work))
        return torch.stack(rows)

    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """Weights, gradient and optimizer state; per-example gradients exist for one client at a time."""
        return 4 * self.layout.size * 8

    def _private_row(self, batch: Batch, row: int, work: ClientWork) -> Tensor:
        wrapped = self._wrap()
        optimizer = _optimizer(wrapped, work)
        for start in range(0, batch.counts[row], PIECE):
            part = slice(start, min(start + PIECE, batch.counts[row]))
            losses = self._losses(wrapped, batch, row, part)
            with warnings.catch_warnings():
                # The inputs need no gradient, which torch reports for every module hook of Opacus.
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                losses.sum().backward()
            optimizer.clip_and_accumulate()
            wrapped.zero_grad()
        optimizer.add_noise()
        optimizer.scale_grad()
        assert optimizer.release is not None
        self.note(optimizer.release)
        return torch.cat([p.grad.reshape(-1) for p in optimizer.params])

    def _wrap(self) -> GradSampleModule:
        if self._wrapped is None:
            self._wrapped = GradSampleModule(self.module, loss_reduction="sum")
            self._wrapped.forbid_grad_accumulation()
        return self._wrapped.train()

    def _losses(self, module: nn.Module, batch: Batch, row: int, part: slice) -> Tensor:
        for layer, masks in zip(self.dropout_layers, batch.dropout_masks, strict=True):
            layer.mask = masks[row, part]
        return self.task.losses(module(batch.features[row, part]), batch.labels[row, part])


class _NanSafeOptimizer(DPOptimizer):
    """Opacus' DP optimizer with the client's own noise stream, float64 norms, and NaN gradients counted as zero."""

    def __init__(self, work: ClientWork, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.work, self.count = work, 0.0
        self.release: Release | None = None

    def clip_and_accumulate(self) -> None:
        """Add the clipped per-example gradients of one piece to ``summed_grad``."""
        samples = [sample.flatten(1) for sample in self.grad_samples]
        norms = torch.stack([torch.linalg.vector_norm(s, dim=1, dtype=torch.float64) for s in samples]).norm(dim=0)
        self.count += float(((norms <= self.max_grad_norm).double() - 0.5).sum())
        share = self.max_grad_norm / len(samples) ** 0.5
        for p, sample in zip(self.params, samples, strict=True):
            finite = torch.where(torch.isfinite(norms)[:, None], sample, torch.zeros_like(sample))
            own = torch.linalg.vector_norm(finite, dim=1, dtype=torch.float64)
            factors = clip_factors(own, share) if self.work.per_layer else clip_factors(norms, self.max_grad_norm)
            total = (narrowed(factors, sample.dtype) @ finite).view_as(p)
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

    def add_noise(self) -> None:
        """Noise the whole gradient in one draw of the client's mechanism; an empty batch releases noise alone."""
        parts = [torch.zeros_like(p) if p.summed_grad is None else p.summed_grad for p in self.params]
        total = torch.cat([part.reshape(-1) for part in parts])
        assert self.work.mechanism is not None
        self.release = self.work.mechanism.release(total, self.work.noise, self.count)
        pieces = self.release.total.split([p.numel() for p in self.params])
        for p, piece in zip(self.params, pieces, strict=True):
            p.grad = piece.view_as(p)

    def scale_grad(self) -> None:
        """Divide by the public expected batch size (Opacus would also divide by the number of pieces)."""
        for p in self.params:
            p.grad /= self.expected_batch_size


def _optimizer(wrapped: GradSampleModule, work: ClientWork) -> _NanSafeOptimizer:
    assert work.mechanism is not None
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    return _NanSafeOptimizer(
        work,
        optimizer=torch.optim.SGD(parameters, lr=0.0),
        noise_multiplier=work.mechanism.event.noise_multiplier,
        max_grad_norm=work.mechanism.clip_norm,
        expected_batch_size=work.denominator,
    )
