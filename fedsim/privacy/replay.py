"""Neighbour replay: one step is run with and without a record, to see that no record touches another one's gradient.

DP-SGD's sensitivity is the clip norm only if the clipped gradient of a record is the same in every batch (Abadi et al.
2016, arXiv 1607.00133). Layers that are known to break this are refused by name in ``gate``; this finds the others.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.errors import BadInput
from fedsim.models.layers import Dropout
from fedsim.privacy.clipping import clip_factors, row_norms
from fedsim.training.trainer import Trainer
from fedsim.training.work import Batch

RECORDS = 6
# How far a clipped sum may be from the sum of the records' own clipped gradients, in clip norms.
TOLERANCE = 1e-4

_GLOBAL_GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "torch": (torch.get_rng_state, torch.set_rng_state),
    "NumPy": (np.random.get_state, np.random.set_state),
    "Python": (random.getstate, random.setstate),
}


def neighbour_replay(trainer: Trainer, start: Tensor, clip_norm: float, rng: np.random.Generator) -> None:
    """Raise ``BadInput`` if, at ``start`` ``[params]``, records are coupled, stored, or draw from a global generator.

    Everything happens to a copy of the model, on the CPU; ``rng`` draws the records and their dropout masks.
    """
    before = _generator_states()
    try:
        _replay(_Replay.of(trainer, start, rng), clip_norm)
    finally:
        for name, (_, put) in _GLOBAL_GENERATORS.items():
            put(before[name])


@dataclass(frozen=True)
class _Replay:
    """A copy of a trainer, the weights, and a few records with the dropout masks that they keep in every batch."""

    trainer: Trainer
    weights: Tensor
    features: Tensor
    labels: Tensor
    masks: list[Tensor]

    @classmethod
    def of(cls, trainer: Trainer, start: Tensor, rng: np.random.Generator) -> _Replay:
        task, total = trainer.task, len(trainer.task.labels)
        rows = torch.from_numpy(rng.choice(total, RECORDS, replace=total < RECORDS)).to(task.labels.device)
        features, labels = task.features[rows].cpu(), task.labels[rows].cpu()
        task = replace(task, features=features, labels=labels)
        trainer = type(trainer)(copy.deepcopy(trainer.module).cpu(), task)
        # In float32 a unit next to the kink of its activation may fall to either side, depending on the batch's size.
        dtype = torch.float64 if _runs_in_double(trainer.module, features) else torch.float32
        trainer.module.to(dtype).train()
        masks = [
            torch.from_numpy((rng.random((RECORDS, *shape)) >= layer.p) / (1 - layer.p)).to(dtype)
            for layer, shape in zip(trainer.dropout_layers, trainer.dropout_shapes, strict=True)
        ]
        weights = _stirred(trainer, start.cpu().to(dtype), rng)
        return cls(trainer, weights, _cast(features, dtype), _cast(labels, dtype), masks)

    def gradient(self, rows: Tensor, factors: Tensor) -> Tensor:
        """Gradient ``[params]`` of the sum of ``factors * losses`` of some records in one batch, by plain autograd."""
        trainer, flat = self.trainer, self.weights.clone().requires_grad_()
        for layer, mask in zip(trainer.dropout_layers, self.masks, strict=True):
            layer.mask = mask[rows]
        try:
            outputs = functional_call(trainer.module, trainer.layout.views(flat), (self.features[rows],))
            losses = trainer.task.losses(outputs, self.labels[rows])
            found: Tensor = torch.autograd.grad((factors * losses).sum(), flat)[0]
        except Exception as error:
            _refuse(f"it cannot train on a batch of {len(rows)} ({error})")
        if not torch.equal(flat.detach(), self.weights):
            _refuse("it changes its own parameters while it computes")
        return found

    def step(self, rows: Tensor, clip_norm: float) -> Tensor:
        """The clipped gradient sum ``[params]`` of some records as the trainer computes it, before noise."""
        real = torch.ones(1, len(rows), dtype=torch.bool)
        masks = [mask[rows][None] for mask in self.masks]
        batch = Batch(self.features[rows][None], self.labels[rows][None], real, masks)
        try:
            return self.trainer.clipped(self.weights[None].clone(), batch, clip_norm)[0][0]
        except Exception as error:
            _refuse(f"{type(self.trainer).__name__} cannot compute its records' gradients ({error})")


def _stirred(trainer: Trainer, start: Tensor, rng: np.random.Generator) -> Tensor:
    """The start, but parameters that are 0, or all alike, drawn anew: what a zero hides would come out in training."""
    weights = start.clone()
    for values in trainer.layout.views(weights).values():
        if bool((values == values.reshape(-1)[0]).all()):
            values.add_(0.1 * torch.from_numpy(rng.standard_normal(tuple(values.shape))))
    return weights


def _runs_in_double(module: nn.Module, features: Tensor) -> bool:
    try:
        with torch.no_grad():
            copy.deepcopy(module).double().eval()(_cast(features, torch.float64))
    except Exception:
        return False
    return True


def _cast(features: Tensor, dtype: torch.dtype) -> Tensor:
    return features.to(dtype) if features.is_floating_point() else features


def _own_gradients(replay: _Replay) -> Tensor:
    """Each record's gradient in a batch of its own ``[records, params]``."""
    rows = [replay.gradient(torch.tensor([row]), torch.ones(1)) for row in range(RECORDS)]
    own = torch.stack(rows)
    if not torch.isfinite(own).all():
        _refuse("its gradients near its first weights are NaN or infinite")
    return own


def _replay(replay: _Replay, clip_norm: float) -> None:
    """Compare the step on all records, and on all but one, with the sum of the records' own clipped gradients.

    First by autograd over whole batches, the loss of each record weighted by its clip factor: the trainer that maps
    over records (vmap) gives each a batch of its own, so it would train a coupled model without showing it, and to
    other weights than Opacus does. Then by the trainer itself: Opacus takes row i of every layer's input for record i,
    so a model that reorders the batch and puts it back is right by autograd and wrong in Opacus. A model that passes
    both has gradients that do not depend on the batch, and its trainer computes them.
    """
    state, draws = _state(replay.trainer.module), _generator_states()
    own = _own_gradients(replay)
    norms = row_norms(own)
    # In a sum in which nothing is clipped, a gradient that Opacus ascribes to the wrong record would not show.
    clip_norm = min(clip_norm, float(norms.median()) / 2) or clip_norm
    factors = clip_factors(norms, clip_norm).to(own.dtype)
    everyone = torch.arange(RECORDS)
    batches = [everyone, *(everyone[everyone != left_out] for left_out in range(RECORDS))]
    expected = torch.stack([(own * factors[:, None])[rows].sum(0) for rows in batches])
    sums = torch.stack([replay.gradient(rows, factors[rows]) for rows in batches])
    _check_generators(draws)
    _check_state(replay.trainer.module, state)
    _check_sums(
        sums, expected, clip_norm, "the gradient of one record changes when another record of the batch is removed"
    )
    sums = torch.stack([replay.step(rows, clip_norm) for rows in batches])
    name = type(replay.trainer).__name__
    _check_sums(sums, expected, clip_norm, f"the gradients that {name} computes are not those of one record each")


def _check_sums(sums: Tensor, expected: Tensor, clip_norm: float, found: str) -> None:
    """Compare clipped sums ``[batches, params]``: if each is right, so is their difference, one record's gradient."""
    gap = float((sums - expected).norm(dim=1).max()) / clip_norm
    if not gap <= TOLERANCE:
        _refuse(f"{found} (by {gap:.2g} clip norms)")


def _generator_states() -> dict[str, Any]:
    return {name: get() for name, (get, _) in _GLOBAL_GENERATORS.items()}


def _check_generators(before: dict[str, Any]) -> None:
    for name, state in _generator_states().items():
        if _frozen(state) != _frozen(before[name]):
            _refuse(
                f"it draws from {name}'s global random generator, so that the draws of a record depend on the batch; "
                "torch.nn.Dropout gets its draws from the client's own stream"
            )


def _check_state(module: nn.Module, before: dict[tuple[str, str], Any]) -> None:
    after, layers = _state(module), dict(module.named_modules())
    for path, name in sorted(before.keys() | after.keys()):
        if before.get((path, name)) != after.get((path, name)):
            kind = "buffer" if name in layers[path]._buffers else "attribute"
            where = f"its layer {path!r} ({type(layers[path]).__name__})" if path else "it"
            _refuse(f"{where} changes the {kind} {name!r} in training, which could store records without noise")


def _state(module: nn.Module) -> dict[tuple[str, str], Any]:
    """Whatever the layers hold, by path and name; our own dropout layers are given a mask in every step."""
    return {
        (path, name): _frozen(value)
        for path, layer in module.named_modules()
        if not isinstance(layer, Dropout)
        for name, value in {**vars(layer), **layer._buffers, "_buffers": None, "_modules": None}.items()
    }


def _frozen(value: Any, inside: frozenset[int] = frozenset()) -> Any:
    """Something to compare with later: the contents of tensors and containers, the identity of what is opaque."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        contents = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
        return str(plain.dtype), tuple(plain.shape), blake2b(contents).digest()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, blake2b(value.tobytes()).digest()
    if isinstance(value, torch.Generator):
        return _frozen(value.get_state())
    if isinstance(value, np.random.Generator):
        return _frozen(value.bit_generator.state)
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return repr(value)
    if id(value) in inside or isinstance(value, type | nn.Module) or callable(value):
        return id(value)
    inside = inside | {id(value)}
    if isinstance(value, dict):
        return [(_frozen(key, inside), _frozen(held, inside)) for key, held in value.items()]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [_frozen(held, inside) for held in value]
    return _frozen(vars(value), inside) if hasattr(value, "__dict__") else id(value)


def _refuse(found: str) -> NoReturn:
    raise BadInput(
        f"[privacy.example] cannot protect this model: {found}. Clipping one record's gradient must bound all of its "
        "influence. Use torch.nn.GroupNorm, and remove batch statistics and whatever else mixes or keeps records."
    )
