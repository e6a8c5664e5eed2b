"""The vectorised trainer: a whole block of clients as one computation on stacked parameters."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad, vmap

from fedsim.privacy.clipping import clipped_sums
from fedsim.training.gradients import Gradients
from fedsim.training.work import Batch

# Per-example gradients of one step are computed in slices of at most this size.
SLICE_BYTES = 256 * 2**20


class VectorisedGradients(Gradients):
    """``torch.func.vmap`` over clients, and with DP-SGD over their examples too."""

    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over its real examples."""
        mask = batch.mask.to(weights.dtype)
        shares = mask / mask.sum(1, keepdim=True).clamp(min=1)
        masks = tuple(batch.dropout_masks)
        return vmap(grad(self._weighted_loss))(weights, batch.features, batch.labels, shares, masks)  # type: ignore[no-any-return]

    def private(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """DP-SGD's gradient of every client, its noise from the client's own stream."""
        total, counts = self._clipped_sums(weights, batch)
        for row, (work, count) in enumerate(zip(batch.works, counts.tolist(), strict=True)):
            assert work.mechanism is not None
            release = work.mechanism.release(total[row], work.noise, count)
            self.note(release)
            total[row] = release.total / work.denominator
        return total

    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """Weights, gradient and optimizer state; with DP-SGD, per-example gradients too."""
        rows = 8 + (3 * batch_size if private else 0)
        return 4 * self.layout.size * rows

    def _clipped_sums(self, weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sums of each client's clipped gradients and centred counts, computed in slices of the batch."""
        clip_norm = batch.works[0].mechanism.clip_norm  # type: ignore[union-attr]
        sizes = self.layout.sizes if batch.works[0].per_layer else None
        slice_length = max(1, SLICE_BYTES // (4 * weights.numel()))
        per_example = vmap(vmap(grad(self._example_loss), in_dims=(None, 0, 0, 0)))
        total, counts = torch.zeros_like(weights), torch.zeros(len(weights), dtype=torch.float64)
        for start in range(0, batch.mask.shape[1], slice_length):
            part = slice(start, start + slice_length)
            masks = tuple(mask[:, part] for mask in batch.dropout_masks)
            gradients = per_example(weights, batch.features[:, part], batch.labels[:, part], masks)
            sums, unclipped = clipped_sums(gradients, batch.mask[:, part], clip_norm, sizes)
            total += sums
            counts += unclipped.cpu()
        return total, counts

    def _weighted_loss(
        self, flat: Tensor, features: Tensor, labels: Tensor, shares: Tensor, masks: tuple[Tensor, ...]
    ) -> Tensor:
        return (self._losses(flat, features, labels, masks) * shares).sum()

    def _example_loss(self, flat: Tensor, features: Tensor, label: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
        return self._losses(flat, features[None], label[None], tuple(mask[None] for mask in masks))[0]

    def _losses(self, flat: Tensor, features: Tensor, labels: Tensor, masks: tuple[Tensor, ...]) -> Tensor:
        self.module.train()
        for layer, mask in zip(self.dropout_layers, masks, strict=True):
            layer.mask = mask
        outputs = functional_call(self.module, self.layout.views(flat), (features,))
        for layer in self.dropout_layers:
            layer.mask = None  # a traced tensor must not outlive the trace
        return self.task.losses(outputs, labels)
