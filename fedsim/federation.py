"""Everything a scenario sets up: data, clients, model, privacy plan and trainer, ready to run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fedsim.checks import check_clients
from fedsim.errors import BadInput
from fedsim.holdings import Holdings, load_holdings, of_training_owners
from fedsim.models import build_model
from fedsim.models.transfer import pinned as pinned_model
from fedsim.params import Layout, vector_of
from fedsim.population import Population
from fedsim.privacy.gate import check_model
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.planning import make_plan
from fedsim.privacy.replay import neighbour_replay
from fedsim.scenario import Scenario
from fedsim.seeding import Stream, generator
from fedsim.steering import steered
from fedsim.tasks import TASKS_OF, Task
from fedsim.training import Trainer, pick_trainer
from fedsim.training.pick import workers
from fedsim.training.prefix import without_prefix


@dataclass(frozen=True)
class Federation:
    """A scenario made concrete; ids of clients that train are 0 to ``len(population) - 1``.

    ``unseen`` is the task with the records of the clients that never train as its test records.
    """

    scenario: Scenario
    task: Task
    unseen: Task | None
    holdings: Holdings
    population: Population
    plan: PrivacyPlan
    module: nn.Module
    start: Tensor
    trainer: Trainer
    trainer_name: str
    trainer_reason: str
    workers: int

    @property
    def device(self) -> torch.device:
        """Where training runs."""
        return self.start.device

    @cached_property
    def layout(self) -> Layout:
        """Where the model's trained parameters lie in the flat vector."""
        return Layout.of(self.module)

    @property
    def report_size(self) -> int:
        """How many values a client reports."""
        return self.scenario.algorithm.report_size(self.layout)

    @property
    def state_size(self) -> int:
        """How many values a client keeps from round to round."""
        return self.scenario.algorithm.state_size(self.layout)

    @property
    def sent_memory_size(self) -> int:
        """How many values the server sends beside the model."""
        algorithm = self.scenario.algorithm
        return algorithm.memory_size(self.layout) if algorithm.sends_memory else 0

    @property
    def stacks(self) -> bool:
        """Whether the server needs every client's report by itself, and not only their sum."""
        return self.scenario.algorithm.aggregation.needs_every_update

    @property
    def sum_size(self) -> int:
        """How many values the sum of the reports has that a node answers with."""
        return 0 if self.stacks else self.report_size

    @property
    def shows_records(self) -> bool:
        """Whether test records themselves may be shown: not those that clients hold back or are protected with."""
        own = self.plan.client is not None and of_training_owners(self.scenario, self.holdings) > 0
        return self.task.objective.shows_records and self.holdings.held_back is None and not own

    @property
    def weighting(self) -> str:
        """How client updates are weighted: by examples where sizes are not protected, else uniformly."""
        wanted = self.scenario.algorithm.weighting
        if wanted == "auto":
            return "uniform" if self.plan.client else self.scenario.algorithm.natural_weighting
        return wanted


# The part of a federation that is the same wherever its clients train.
Prepared = tuple[Holdings, PrivacyPlan]


def build_federation(scenario: Scenario, prepared: Prepared | None = None) -> Federation:
    """Load the data and set everything up; raises ``BadInput`` before anything is written.

    What another process has ``prepared`` of the same scenario is taken as it is.
    """
    scenario = pinned(scenario)
    device = pick_device(scenario.engine.device)
    holdings = prepared[0] if prepared else load_holdings(scenario)
    population, data = holdings.population, holdings.data
    _check_clients(scenario, holdings)
    task = Task.of(scenario.task or TASKS_OF[data.kind], data, device)
    apart = holdings.unseen_data
    unseen = replace(task, data=apart) if apart is not None else None
    module = build_model(scenario.model, task.signature, scenario.seed).to(device)
    check_model(module, scenario.privacy.example is not None)
    start = vector_of(module)
    plan = prepared[1] if prepared else make_plan(scenario, population.sizes)
    rest, cached = without_prefix(module, task, scenario.engine.memory_gib * 2**30)
    name, trainer, reason = pick_trainer(scenario, rest, cached, len(population))
    reason += "" if rest is module else "; its frozen first layers are applied to every example once"
    if scenario.privacy.example is not None:
        neighbour_replay(trainer, start, scenario.privacy.example.clip_norm, generator(scenario.seed, Stream.REPLAY))
    parts = (scenario, task, unseen, holdings, population, plan, module, start, trainer)
    return Federation(*parts, name, reason, workers(scenario))


def _check_clients(scenario: Scenario, holdings: Holdings) -> None:
    """Raise ``BadInput`` for what only the loaded data shows: how many clients train, whose test records these are."""
    problems = list(check_clients(scenario, len(holdings.population)))
    if scenario.privacy.client is not None and of_training_owners(scenario, holdings):
        problems += steered(scenario)
    if problems:
        raise BadInput("; ".join(problems) + ".")


def pinned(scenario: Scenario) -> Scenario:
    """The scenario with the SHA-256 of the file that its model starts from; raises ``BadInput`` if there is none."""
    model = pinned_model(scenario.model)
    return scenario if model is scenario.model else replace(scenario, model=model)


def pick_device(wanted: str) -> torch.device:
    """The torch device by name; ``auto`` takes CUDA, else Apple's MPS, else the CPU. Raises ``BadInput`` if absent."""
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        raise BadInput(f'engine.device = "{wanted}": this machine has none that torch can use; try "auto" or "cpu".')
    return torch.device(wanted)
