"""Which trainer a run uses, and why."""

from __future__ import annotations

import torch
from torch import nn

from fedsim.scenario import Scenario
from fedsim.tasks import Classification
from fedsim.training.gradients import Gradients
from fedsim.training.opacus import OpacusGradients
from fedsim.training.vectorised import VectorisedGradients
from fedsim.training.work import Batch


def pick_trainer(scenario: Scenario, module: nn.Module, task: Classification) -> tuple[str, Gradients, str]:
    """The trainer's name, the trainer, and the reason in words."""
    wanted = scenario.engine.trainer
    if wanted == "vectorised":
        return wanted, VectorisedGradients(module, task), "named in the scenario"
    if wanted == "opacus":
        return wanted, OpacusGradients(module, task), "named in the scenario"
    if scenario.population.clients == 1:
        return "opacus", OpacusGradients(module, task), "there is a single client, so nothing to vectorise over"
    gradients = VectorisedGradients(module, task)
    problem = _obstacle(gradients)
    if problem is None:
        return "vectorised", gradients, "all clients of a block train as one computation"
    return "opacus", OpacusGradients(module, task), f"torch.func.vmap cannot vectorise the model ({problem})"


def _obstacle(gradients: VectorisedGradients) -> str | None:
    """Why the model cannot be vectorised, found by one gradient of two clients with one example each."""
    task = gradients.task
    masks = [torch.ones(2, 1, *shape, device=task.features.device) for shape in gradients.dropout_shapes]
    flat = torch.zeros(2, gradients.layout.size, device=task.features.device)
    real = torch.ones(2, 1, dtype=torch.bool, device=task.features.device)
    try:
        gradients.plain(flat, Batch(task.features[:2, None], task.labels[:2, None], real, masks, []))
    except Exception as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return None
