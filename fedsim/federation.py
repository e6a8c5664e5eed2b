"""Everything a scenario sets up: data, clients, model, privacy plan and trainer, ready to run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import BadInput
from fedsim.models import build_model
from fedsim.params import vector_of
from fedsim.population import Population
from fedsim.privacy.gate import check_model
from fedsim.privacy.plan import PrivacyPlan, make_plan
from fedsim.scenario import Scenario
from fedsim.seeding import Stream, generator
from fedsim.tasks import Classification
from fedsim.training import Gradients, pick_trainer


@dataclass(frozen=True)
class Federation:
    """A scenario made concrete; client ids are 0 to ``len(population) - 1``."""

    scenario: Scenario
    task: Classification
    population: Population
    plan: PrivacyPlan
    module: nn.Module
    start: Tensor
    trainer: str
    trainer_reason: str
    gradients: Gradients

    @property
    def device(self) -> torch.device:
        """Where training runs."""
        return self.start.device

    @property
    def weighting(self) -> str:
        """How client updates are weighted: by examples where sizes are not protected, else uniformly."""
        wanted = self.scenario.algorithm.weighting
        if wanted == "auto":
            return "uniform" if self.plan.client else "examples"
        return wanted


def build_federation(scenario: Scenario) -> Federation:
    """Load the data and set everything up; raises ``BadInput`` before anything is written."""
    device = pick_device(scenario.engine.device)
    data = scenario.data.load(scenario.seed)
    clients = scenario.population.clients
    rng = generator(scenario.seed, Stream.PARTITION)
    population = scenario.population.partition.split(data.train.labels, clients, rng)
    _check_example_delta(scenario, population)
    task = Classification.of(data, device)
    module = build_model(scenario.model, data.shape, task.outputs, scenario.seed).to(device)
    check_model(module, scenario.privacy.example is not None)
    start = vector_of(module)
    plan = make_plan(scenario, population.sizes)
    trainer, gradients, reason = pick_trainer(scenario, module, task)
    return Federation(scenario, task, population, plan, module, start, trainer, reason, gradients)


def pick_device(wanted: str) -> torch.device:
    """The torch device by name; ``auto`` takes CUDA, else Apple's MPS, else the CPU. Raises ``BadInput`` if absent."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        raise BadInput(f'engine.device = "{wanted}": this machine has none that torch can use; try "auto" or "cpu".')
    return torch.device(wanted)


def _check_example_delta(scenario: Scenario, population: Population) -> None:
    """A delta of 1 / n or more would call it private to publish one of n records whole."""
    settings = scenario.privacy.example
    largest = int(np.max(population.sizes))
    if settings is not None and settings.delta >= 1 / largest:
        raise BadInput(
            f"privacy.example.delta = {settings.delta}: must be below 1 / n = {1 / largest:.3g} for the client with "
            f"the most records (n = {largest}); at or above that, publishing one record whole would count as private."
        )
