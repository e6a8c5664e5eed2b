"""Which trainer a run uses, and why."""

from __future__ import annotations

import os

import torch
from torch import nn

from fedsim.errors import BadInput
from fedsim.models.recurrent import LSTM
from fedsim.privacy.clip_settings import PerLayerClip
from fedsim.scenario import Scenario
from fedsim.tasks import Task
from fedsim.training.native import NativeTrainer, obstacle
from fedsim.training.opacus import OpacusTrainer
from fedsim.training.trainer import Trainer
from fedsim.training.vectorised import VectorisedTrainer
from fedsim.training.work import Batch

Picked = tuple[str, Trainer, str]


def pick_trainer(scenario: Scenario, module: nn.Module, task: Task, clients: int | None = None) -> Picked:
    """The trainer's name, the trainer, and the reason in words; raises ``BadInput`` if the one named cannot be had."""
    wanted, named = scenario.engine.trainer, "named in the scenario"
    if wanted == "vectorised":
        return wanted, VectorisedTrainer(module, task), named
    if wanted == "opacus":
        return wanted, OpacusTrainer(module, task), named
    example = scenario.privacy.example
    per_layer = example is not None and isinstance(example.clipping, PerLayerClip)
    problem = obstacle(module, task, scenario.algorithm, per_layer)
    if problem is None:
        reason = named if wanted == "native" else "each client trains whole in one core's cache"
        return "native", NativeTrainer(module, task, workers(scenario)), reason
    if wanted == "native":
        raise BadInput(f'engine.trainer = "native" cannot train this scenario: {problem}. Use "auto" or "vectorised".')
    if example is None and _recurrent(module) and task.features.device.type == "cpu":
        return "opacus", OpacusTrainer(module, task), "torch's own LSTM, client by client, is quickest on a CPU"
    return _pick_torch(module, task, clients or scenario.population.clients, f"not native: {problem}")


def _pick_torch(module: nn.Module, task: Task, clients: int | None, why: str) -> Picked:
    if clients == 1:
        return "opacus", OpacusTrainer(module, task), f"there is a single client, so nothing to vectorise over; {why}"
    trainer = VectorisedTrainer(module, task)
    problem = _obstacle(trainer)
    if problem is None:
        how = "all clients of a block train as one computation"
        return "vectorised", trainer, f"{how} ({trainer.reason}); {why}"
    return "opacus", OpacusTrainer(module, task), f"torch.func.vmap cannot vectorise the model ({problem}); {why}"


def _recurrent(module: nn.Module) -> bool:
    return any(isinstance(layer, LSTM) for layer in module.modules())


def workers(scenario: Scenario) -> int:
    """How many threads train: ``engine.workers``, or one for each core that this process may use.

    In Ray's actors, which ``engine.workers`` counts, it is the cores that each has.
    """
    if scenario.engine.kind == "ray":
        return max(1, int(scenario.engine.actor.cpu))
    if scenario.engine.workers is not None:
        return scenario.engine.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _obstacle(trainer: VectorisedTrainer) -> str | None:
    """Why the model cannot be vectorised, found by one gradient of two clients with one example each."""
    task = trainer.task
    masks = [torch.ones(2, 1, *shape, device=task.features.device) for shape in trainer.dropout_shapes]
    flat = torch.zeros(2, trainer.layout.size, device=task.features.device)
    real = torch.ones(2, 1, dtype=torch.bool, device=task.features.device)
    try:
        trainer.plain(flat, Batch(task.features[:2, None], task.labels[:2, None], real, masks))
    except Exception as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return None
