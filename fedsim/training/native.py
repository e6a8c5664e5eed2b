"""The native trainer: each client trained whole in one core's cache, by the C++ of ``fedsim/native``.

It does what the vectorised trainer does, for chains of common layers, plain SGD with or without momentum, and
algorithms that at most pull back to the round's start; faster for small models, and to float tolerance the same.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from fedsim.algorithms import Algorithm, LocalProblem, LocalTraining
from fedsim.native.build import NoNative, library
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream
from fedsim.tasks import Classification, Objective, Regression, Task
from fedsim.training.native_program import Description
from fedsim.training.program import NotAChain
from fedsim.training.trainer import Trained, Trainer
from fedsim.training.vectorised import VectorisedTrainer
from fedsim.training.work import Batch, Records, Work

CROSS_ENTROPY, SQUARED, ABSOLUTE = range(3)
SGD_OPTIONS = {"momentum", "dampening", "nesterov", "weight_decay"}


class _Settings(ctypes.Structure):
    """``Settings`` of fedsim_native.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("data", "labels", "targets")),
        ("loss", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("records", "starts", "lengths", "clients")),
        ("count", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("start", ctypes.c_void_p),
        ("updates", ctypes.c_void_p),
        ("size", ctypes.c_int64),
        ("anchor", ctypes.c_void_p),
        ("linear", ctypes.c_void_p),
        ("start_row", ctypes.c_int64),
        ("linear_row", ctypes.c_int64),
        ("key", ctypes.c_uint32 * 8),
        *((name, ctypes.c_uint32) for name in ("round", "noise_stream", "dropout_stream", "secure")),
        ("deviations", ctypes.c_void_p),
        *((name, ctypes.c_double) for name in ("clip_norm", "denominator", "count_noise")),
        ("noised", ctypes.c_void_p),
        ("unclipped", ctypes.c_void_p),
        *((n, ctypes.c_double) for n in ("learning_rate", "pull", "weight_decay", "momentum", "dampening")),
        ("nesterov", ctypes.c_int64),
    )


class NativeTrainer(Trainer):
    """Trains each client whole in one core's cache, natively; gradients alone come from the vectorised trainer."""

    def __init__(self, module: nn.Module, task: Task, workers: int = 1) -> None:
        super().__init__(module, task)
        self.workers = workers
        self._vectorised = VectorisedTrainer(module, task)
        self._description = Description.of(module, task)
        self._models: dict[bool, int] = {}
        self._updates = torch.empty(0)
        self._library = library()
        self._library.fedsim_open.restype = ctypes.c_void_p
        for name in ("train", "add_clipped", "words", "normals"):
            getattr(self._library, f"fedsim_{name}").restype = ctypes.c_bool

    def train(self, local: LocalTraining, problem: LocalProblem, work: Work) -> Trained:
        """Train every client, on ``workers`` threads."""
        noise, clients, size = work.noise, len(work.clients), self.layout.size
        result = Trained(self._room(clients * size).view(clients, -1))
        noised, unclipped = np.zeros(clients, np.int64), np.zeros(clients)
        kept = _Kept()
        loss = _loss(self.task.objective)
        assert loss is not None
        settings = _Settings(
            data=kept(self.task.features.contiguous().numpy()),
            loss=loss,
            **{"labels" if loss == CROSS_ENTROPY else "targets": kept(self.task.labels.numpy())},
            records=kept(work.records),
            starts=kept(work.starts),
            lengths=kept(work.lengths),
            clients=kept(work.clients),
            count=clients,
            steps=work.lengths.shape[1],
            updates=result.updates.data_ptr(),
            size=size,
            **_problem(problem, kept),
            key=(ctypes.c_uint32 * 8).from_buffer_copy(work.keystream.key),
            round=work.keystream.round,
            dropout_stream=Stream.DROPOUT,
            secure=work.keystream.secure,
            noised=kept(noised),
            unclipped=kept(unclipped),
            learning_rate=local.learning_rate,
            denominator=work.denominator,
            **_sgd_options(local),
        )
        if noise is not None:
            settings.deviations, settings.clip_norm = kept(noise.deviations), noise.clip_norm
            settings.noise_stream, settings.count_noise = noise.stream, noise.count_noise or 0.0
        model = ctypes.c_void_p(self._model(noise is not None))
        _sufficed(self._library.fedsim_train(model, ctypes.byref(settings)))
        if noise is not None:
            result.spent, result.counts = noise.spent(noised), [torch.from_numpy(unclipped)]
        return result

    def add_clipped(
        self,
        total: Float[Tensor, " params"],
        updates: Float[Tensor, "clients params"],
        clip_norm: float,
        weights: Tensor,
    ) -> Float[Tensor, " clients"]:
        """The same sum, in one pass over the updates."""
        (clients, size), updates = updates.shape, updates.contiguous()
        norms, weights = torch.empty(clients, dtype=torch.float64), weights.double().contiguous()
        sizes = ctypes.c_int64(clients), ctypes.c_int64(size), ctypes.c_double(clip_norm), ctypes.c_int64(self.workers)
        arrays = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (weights, total, norms))
        _sufficed(self._library.fedsim_add_clipped(ctypes.c_void_p(updates.data_ptr()), *sizes, *arrays))
        return norms

    def words(self, keystream: Keystream, stream: Stream, clients: Records, counts: Records) -> NDArray[np.uint64]:
        """The same words."""
        words, kept = np.empty(int(counts.sum()), np.uint64), _Kept()
        key, numbers = np.frombuffer(keystream.key, np.uint32), (keystream.rounds, keystream.round, stream)
        arrays = [ctypes.c_void_p(kept(array)) for array in (key, clients, counts, words)]
        head = (arrays[0], *map(ctypes.c_uint32, numbers), *arrays[1:3])
        _sufficed(self._library.fedsim_words(*head, ctypes.c_int64(len(clients)), arrays[3]))
        return words

    def normals(self, keystream: Keystream, stream: Stream, clients: Tensor, step: int, count: int) -> Tensor:
        """The same normals; reproducible ones are made in float32."""
        values, kept = torch.empty(len(clients), count, dtype=torch.float64), _Kept()
        key, ids = kept(np.frombuffer(keystream.key, np.uint32)), kept(clients.numpy())
        nonce = (keystream.rounds, keystream.round, stream << 24 | step)
        sizes = map(ctypes.c_int64, (len(clients), count, self.workers))
        head = (ctypes.c_void_p(key), *map(ctypes.c_uint32, nonce), ctypes.c_void_p(ids))
        _sufficed(self._library.fedsim_normals(*head, *sizes, ctypes.c_void_p(values.data_ptr())))
        return values

    def plain(self, weights: Float[Tensor, "clients params"], batch: Batch) -> Float[Tensor, "clients params"]:
        """The vectorised trainer's."""
        return self._vectorised.plain(weights, batch)

    def clipped(
        self, weights: Float[Tensor, "clients params"], batch: Batch, clip_norm: float, per_layer: bool = False
    ) -> tuple[Float[Tensor, "clients params"], Float[Tensor, " clients"]]:
        """The vectorised trainer's."""
        return self._vectorised.clipped(weights, batch, clip_norm, per_layer)

    def bytes_per_client(self, batch_size: int, private: bool) -> int:
        """One update; a worker's own memory does not grow with the block."""
        return 4 * self.layout.size

    def forget(self) -> None:
        """Let go of the memory for a block's updates too."""
        self._updates = torch.empty(0)
        self._vectorised.forget()
        super().forget()

    def _room(self, count: int) -> Tensor:
        """Memory for a block's updates, the same for every block: fresh pages cost as much as filling them."""
        if self._updates.numel() < count:
            self._updates = torch.empty(count)
        return self._updates[:count]

    def _model(self, private: bool) -> int:
        if private not in self._models:
            self._models[private] = self._description.open(self._library, private, self.workers)
        return self._models[private]

    def __del__(self) -> None:
        for model in getattr(self, "_models", {}).values():
            self._library.fedsim_close(ctypes.c_void_p(model))


def _sufficed(memory: bool) -> None:
    """Raise what Python would where the library ran out of memory."""
    if not memory:
        raise MemoryError("in the native trainer")


def _sgd_options(local: LocalTraining) -> dict[str, Any]:
    """Options of SGD; an L2 penalty's gradient is weight decay."""
    return local.options | {"weight_decay": local.options.get("weight_decay", 0.0) + local.l2}


class _Kept:
    """Addresses of arrays, which live as long as this does."""

    def __init__(self) -> None:
        self._arrays: list[NDArray[Any]] = []

    def __call__(self, array: NDArray[Any]) -> int:
        self._arrays.append(np.ascontiguousarray(array))
        return self._arrays[-1].ctypes.data


def _problem(problem: LocalProblem, kept: _Kept) -> dict[str, Any]:
    """The settings of a problem; arrays of all clients have no step from one to the next."""
    start, linear, centre = problem.start, problem.linear, problem.centre
    return {
        "start": kept(start.numpy()),
        "start_row": start.shape[-1] if start.dim() > 1 else 0,
        "pull": problem.pull,
        "anchor": kept(centre.numpy()) if problem.pull and centre.dim() == 1 else None,
        "linear": None if linear is None else kept(linear.numpy()),
        "linear_row": linear.shape[-1] if linear is not None and linear.dim() > 1 else 0,
    }


def _loss(objective: Objective) -> int | None:
    """Which of net.h's losses an objective has, or None."""
    if isinstance(objective, Regression):
        return SQUARED if objective.loss == "mse" else ABSOLUTE
    return CROSS_ENTROPY if isinstance(objective, Classification) else None


def obstacle(module: nn.Module, task: Task, algorithm: Algorithm, per_layer: bool) -> str | None:
    """Why a scenario cannot train natively on this machine, or None."""
    local = algorithm.local
    if task.features.device.type != "cpu":
        return "it runs on the CPU"
    if _loss(task.objective) is None:
        return f"it knows classification and regression only, not {task.objective.kind}"
    if local.optimizer != "sgd" or not set(local.options) <= SGD_OPTIONS:
        return "it knows SGD with momentum and weight decay only"
    if local.l1 or local.max_grad_norm is not None:
        return f"it does not know {'algorithm.local.l1' if local.l1 else 'algorithm.local.max_grad_norm'}"
    if per_layer:
        return "it does not clip layer by layer"
    try:
        Description.of(module, task)
        library()
    except (NotAChain, NoNative) as error:
        return str(error)
    return None
