"""The vectorised trainer: a block of clients as one computation on stacked parameters.

Models that are a chain of known layers run through batched kernels without autograd, in chunks of clients that fit the
cache; other models through ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim.algorithms import Algorithm
from fedsim.privacy.clipping import clipped_sums
from fedsim.tasks import Classification
from fedsim.training.chain import Chain
from fedsim.training.descent import descend, pull_of
from fedsim.training.program import NotAChain, program_of
from fedsim.training.trainer import Trained, Trainer, train_block
from fedsim.training.work import Batch, Work

# Per-example gradients of one step are computed in slices of at most this size.
SLICE_BYTES = 256 * 2**20
# Weights and activations of as many clients as fit here are trained together: on the CPU a share of its cache.
CPU_CHUNK_BYTES = 16 * 2**20
DEVICE_CHUNK_BYTES = 4 * 2**30


class VectorisedTrainer(Trainer):
    """Batched kernels over clients where the model is a chain, else ``torch.func.vmap``."""

    def __init__(self, module: nn.Module, task: Classification) -> None:
        super().__init__(module, task)
        self.chain, self.reason = _chain_of(module, task)
        if self.chain is not None:
            self.parallel_blocks = 64  # nothing is shared but constants; vmap sets attributes of the module

    def train(self, algorithm: Algorithm, start: Float[Tensor, " params"], work: Work) -> Trained:
        """Train every client from ``start``; the updates are in the order of ``work``."""
        if self.chain is None:
            return train_block(self, algorithm, start, work)
        result = Trained(torch.empty(len(work.clients), start.numel(), dtype=start.dtype, device=start.device))
        pull = pull_of(algorithm) if work.noise is None else None
        for rows in self._chunks(len(work.clients), int(work.lengths.max(initial=0)), work.noise is not None):
            part = work.rows(rows.start, rows.stop)
            if pull is not None:
                descend(self, self.chain, (algorithm.local.learning_rate, pull), start, part, result.updates[rows])
                continue
            trained = train_block(self, algorithm, start, part)
            result.updates[rows] = trained.updates
            result.spent.update(trained.spent)
            result.unclipped += trained.unclipped
        return result

    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over its real examples."""
        if self.chain is not None:
            rows = self._chunks(len(weights), batch.mask.shape[1], False)
            return torch.cat([self.chain.gradient(weights[part], _part(batch, part), self.task) for part in rows])
        mask = batch.mask.to(weights.dtype)
        shares = mask / mask.sum(1, keepdim=True).clamp(min=1)
        masks = tuple(batch.dropout_masks)
        return vmap(grad(self._weighted_loss))(weights, batch.features, batch.labels, shares, masks)  # type: ignore[no-any-return]

    def clipped(
        self, weights: Float[Tensor, "clients params"], batch: Batch, clip_norm: float, per_layer: bool = False
    ) -> tuple[Float[Tensor, "clients params"], Float[Tensor, " clients"]]:
        """DP-SGD's clipped sums, computed in chunks of the clients and slices of the batch."""
        sums, counts = [], []
        for rows in self._chunks(len(weights), batch.mask.shape[1], True):
            sum_, count = self._clipped(weights[rows], _part(batch, rows), clip_norm, per_layer)
            sums.append(sum_)
            counts.append(count)
        return torch.cat(sums), torch.cat(counts)

    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """Weights, gradient and optimizer state; with DP-SGD, per-example gradients too."""
        rows = 8 + (3 * batch_size if private else 0)
        return 4 * self.layout.size * rows

    def _chunks(self, clients: int, batch: int, private: bool) -> Iterator[slice]:
        """Slices of the clients that are computed together."""
        length = clients if self.chain is None else self.chunk_length(batch, private)
        count = max(1, -(-clients // length))
        for number in range(count):
            yield slice(number * clients // count, (number + 1) * clients // count)

    def chunk_length(self, batch: int, private: bool) -> int:
        """How many clients are trained together: as many as fit the cache, or a share of the device's memory."""
        assert self.chain is not None
        memory = CPU_CHUNK_BYTES if self.task.features.device.type == "cpu" else DEVICE_CHUNK_BYTES
        return max(1, memory // self.chain.bytes_per_client(batch, private))

    def _clipped(self, weights: Tensor, batch: Batch, clip_norm: float, per_layer: bool) -> tuple[Tensor, Tensor]:
        sizes = self.layout.sizes if per_layer else None
        total = torch.zeros_like(weights)
        counts = torch.zeros(len(weights), dtype=torch.float64, device=weights.device)
        for part in _slices(batch, max(1, SLICE_BYTES // (4 * weights.numel()))):
            if self.chain is not None:
                sums, unclipped = self.chain.clipped(weights, part, self.task, clip_norm, per_layer)
            else:
                gradients = self._example_gradients(weights, part)
                sums, unclipped = clipped_sums(gradients, part.mask, clip_norm, sizes)
            total += sums
            counts += unclipped
        return total, counts

    def _example_gradients(self, weights: Tensor, batch: Batch) -> Tensor:
        per_example = vmap(vmap(grad(self._example_loss), in_dims=(None, 0, 0, 0)))
        return per_example(weights, batch.features, batch.labels, tuple(batch.dropout_masks))  # type: ignore[no-any-return]

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


def _chain_of(module: nn.Module, task: Classification) -> tuple[Chain | None, str]:
    try:
        return Chain(program_of(module, task.data.shape), task.features.device), "the model is a chain of known layers"
    except NotAChain as obstacle:
        return None, str(obstacle)


def _part(batch: Batch, rows: slice) -> Batch:
    """Some of the clients of a batch."""
    return Batch(batch.features[rows], batch.labels[rows], batch.mask[rows], [m[rows] for m in batch.dropout_masks])


def _slices(batch: Batch, length: int) -> Iterator[Batch]:
    """Some examples of every client at a time."""
    for start in range(0, batch.mask.shape[1], length):
        part = (slice(None), slice(start, start + length))
        masks = [mask[part] for mask in batch.dropout_masks]
        yield Batch(batch.features[part], batch.labels[part], batch.mask[part], masks)
