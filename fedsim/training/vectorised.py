"""The vectorised trainer: a block of clients as one computation on stacked parameters.

Models that are a chain of known layers run through batched kernels without autograd, in chunks of clients that fit the
cache; other models through ``torch.func.vmap``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from fedsim.algorithms import LocalProblem, LocalTraining
from fedsim.models.recurrent import as_if_mapped
from fedsim.privacy.clipping import clipped_sums
from fedsim.tasks import Task
from fedsim.training.chain import Chain
from fedsim.training.descent import descend, is_plain_descent
from fedsim.training.program import NotAChain, program_of
from fedsim.training.trainer import Trained, Trainer, train_block
from fedsim.training.work import Batch, Work

# Per-example gradients of one step, and without a chain whatever is kept for them, come in slices of at most this size.
SLICE_BYTES = 256 * 2**20
# Weights and activations of as many clients as fit here are trained together: on the CPU a share of its cache.
CPU_CHUNK_BYTES = 16 * 2**20
# Weights of models under vmap: a recurrent one reads all of them at every step, from the cache of one core if they fit.
CPU_WEIGHT_BYTES = 2 * 2**20
DEVICE_CHUNK_BYTES = 4 * 2**30
# What the loop for any optimizer holds for each weight: itself, gradient, optimizer's state, noise in float64.
STATE = 8


class VectorisedTrainer(Trainer):
    """Batched kernels over clients where the model is a chain, else ``torch.func.vmap``."""

    def __init__(self, module: nn.Module, task: Task) -> None:
        super().__init__(module, task)
        self.chain, self.reason = _chain_of(module, task)
        if self.chain is not None:
            self.parallel_blocks = 64  # nothing is shared but constants; vmap sets attributes of the module

    def train(self, local: LocalTraining, problem: LocalProblem, work: Work) -> Trained:
        """Train every client; the updates are in the order of ``work``."""
        if self.chain is None:
            return train_block(self, local, problem, work)
        start = problem.start
        result = Trained(torch.empty(len(work.clients), start.shape[-1], dtype=start.dtype, device=start.device))
        plain = work.noise is None and is_plain_descent(local)
        length = self.chunk_length(int(work.lengths.max(initial=0)), work.noise is not None)
        for rows in _pieces(len(work.clients), length if plain else max(length, self._loop_length)):
            part = work.rows(rows.start, rows.stop)
            own = problem.rows(rows)
            if plain:
                descend(self, local.learning_rate, own, part, result.updates[rows])
                continue
            trained = train_block(self, local, own, part)
            result.updates[rows] = trained.updates
            result.spent.update(trained.spent)
            result.counts += trained.counts
        return result

    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """Gradient of each client's mean loss over its real examples."""
        rows = self._chunks(len(weights), batch.mask.shape[1], False)
        if self.chain is not None:
            return torch.cat([self.chain.gradient(weights[part], _part(batch, part), self.task) for part in rows])
        return torch.cat([self._mapped_gradient(weights[part], _part(batch, part)) for part in rows])

    def clipped(
        self, weights: Float[Tensor, "clients params"], batch: Batch, clip_norm: float, per_layer: bool = False
    ) -> tuple[Float[Tensor, "clients params"], Float[Tensor, " clients"]]:
        """DP-SGD's clipped sums, computed in chunks of the clients and slices of the batch."""
        chunks = list(self._chunks(len(weights), batch.mask.shape[1], True))
        if len(chunks) == 1:
            return self._clipped(weights, batch, clip_norm, per_layer)
        # Poisson batches have many lengths: those of like length together need little padding.
        sums, counts = torch.empty_like(weights), torch.empty(len(weights), dtype=torch.float64, device=weights.device)
        order = torch.argsort(batch.mask.sum(1))
        for rows in chunks:
            own = order[rows]
            sums[own], counts[own] = self._clipped(weights[own], _part(batch, own), clip_norm, per_layer)
        return sums, counts

    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """What every client of a block adds: a chain's update; else weights, gradients and optimizer state too."""
        return 4 * self.layout.size * (2 if self.chain is not None else STATE)

    def block_length(self, clients: int, threads: int, batch_size: int, private: bool) -> int:
        """How many of ``clients`` are best given to ``train`` at once, with so many threads that each train a block.

        A chunk or a few (a large model's updates should not leave the cache before they are added up), but not so few
        clients of a small model that the threads wait for Python more than they compute.
        """
        if self.chain is None:
            return clients
        longest = max(4, self.chunk_length(batch_size, private), self._loop_length if private else 0)
        return min(clients, longest, max(-(-clients // threads), longest // 4))

    def chunk_length(self, batch: int, private: bool) -> int:
        """How many clients go through the chain together: as many as fit the cache, or a share of the device."""
        assert self.chain is not None
        return max(1, self._chunk_bytes // self.chain.bytes_per_client(batch, private))

    @property
    def _loop_length(self) -> int:
        """How many clients the loop for any optimizer takes: every step costs time of its own there."""
        return self._chunk_bytes // (4 * STATE * self.layout.size)

    @property
    def _chunk_bytes(self) -> int:
        return CPU_CHUNK_BYTES if self.task.features.device.type == "cpu" else DEVICE_CHUNK_BYTES

    def _chunks(self, clients: int, batch: int, private: bool) -> Iterator[slice]:
        if self.chain is not None:
            return _pieces(clients, self.chunk_length(batch, private))
        own = batch * self._mapped_bytes if private else batch * self._kept_bytes + 4 * STATE * self.layout.size
        fitting = SLICE_BYTES // own
        if self.task.features.device.type == "cpu":
            fitting = min(fitting, CPU_WEIGHT_BYTES // (4 * self.layout.size))
        return _pieces(clients, fitting)

    @property
    def _mapped_bytes(self) -> int:
        """What vmap holds for one example: its gradient, joined to a vector and clipped, and what leads to it."""
        return 3 * 4 * self.layout.size + self._kept_bytes

    @cached_property
    def _kept_bytes(self) -> int:
        """What one example's forward pass keeps for its backward pass, found by one pass."""
        device, kept = self.task.features.device, dict[int, int]()
        dtype = next(self.module.parameters()).dtype  # frozen ones take part as they are
        flat = torch.zeros(self.layout.size, dtype=dtype, device=device, requires_grad=True)
        masks = tuple(torch.ones(1, *shape, dtype=dtype, device=device) for shape in self.dropout_shapes)
        features, labels = (part[:1] for part in (self.task.features, self.task.labels))
        features, labels = (part.to(dtype) if part.is_floating_point() else part for part in (features, labels))

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with as_if_mapped(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            losses = self._losses(flat, features, labels, masks)
        kept.pop(flat.untyped_storage().data_ptr(), None)
        kept.pop(features.untyped_storage().data_ptr(), None)
        kept.pop(labels.untyped_storage().data_ptr(), None)
        assert len(losses) == 1
        return sum(kept.values())

    def _clipped(self, weights: Tensor, batch: Batch, clip_norm: float, per_layer: bool) -> tuple[Tensor, Tensor]:
        sizes = self.layout.sizes if per_layer else None
        total = torch.zeros_like(weights)
        counts = torch.zeros(len(weights), dtype=torch.float64, device=weights.device)
        own = 4 * self.layout.size if self.chain is not None else self._mapped_bytes
        for part in _slices(batch, max(1, SLICE_BYTES // (own * len(weights)))):
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

    def _mapped_gradient(self, weights: Tensor, batch: Batch) -> Tensor:
        mask = batch.mask.to(weights.dtype)
        shares = mask / mask.sum(1, keepdim=True).clamp(min=1)
        masks = tuple(batch.dropout_masks)
        return vmap(grad(self._weighted_loss))(weights, batch.features, batch.labels, shares, masks)  # type: ignore[no-any-return]

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


def _chain_of(module: nn.Module, task: Task) -> tuple[Chain | None, str]:
    try:
        return Chain(program_of(module, task.data.shape), task.features.device), "the model is a chain of known layers"
    except NotAChain as obstacle:
        return None, str(obstacle)


def _pieces(count: int, length: int) -> Iterator[slice]:
    """As many slices as it takes for none to be longer than ``length``, all about as long."""
    pieces = max(1, -(-count // max(1, length)))
    for number in range(pieces):
        yield slice(number * count // pieces, (number + 1) * count // pieces)


def _part(batch: Batch, rows: slice | Tensor) -> Batch:
    """Some of the clients of a batch, without the places that are padding for them all, where looking costs nothing."""
    mask = batch.mask[rows]
    width = int(mask.any(0).nonzero().max()) + 1 if mask.device.type == "cpu" and mask.any() else mask.shape[1]
    masks = [own[rows, :width] for own in batch.dropout_masks]
    return Batch(batch.features[rows, :width], batch.labels[rows, :width], mask[:, :width], masks)


def _slices(batch: Batch, length: int) -> Iterator[Batch]:
    """Some examples of every client at a time."""
    for start in range(0, batch.mask.shape[1], length):
        part = (slice(None), slice(start, start + length))
        masks = [mask[part] for mask in batch.dropout_masks]
        yield Batch(batch.features[part], batch.labels[part], batch.mask[part], masks)
