"""Everything a scenario sets up: data, clients, model, privacy plan and trainer, ready to run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from fedsim.attacking import probing
from fedsim.checks import check_clients
from fedsim.checks_aggregation import check_reports
from fedsim.checks_devices import check_places, check_sent
from fedsim.communication import Channel
from fedsim.errors import BadInput
from fedsim.holdings import Holdings, load_holdings, of_training_owners
from fedsim.models import build_model
from fedsim.models.transfer import pinned as pinned_model
from fedsim.pace import Pace, make_pace
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

    ``unseen`` is the task with the records of the clients that never train as its test records; ``probe`` the one with
    records that an attacker wants called something, where that shows whether the attack succeeds.
    """

    scenario: Scenario
    task: Task
    unseen: Task | None
    probe: Task | None
    holdings: Holdings
    population: Population
    plan: PrivacyPlan
    module: nn.Module
    start: Tensor
    trainer: Trainer
    trainer_name: str
    trainer_reason: str
    workers: int
    pace: Pace | None = None

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
        """How many values a client keeps: the algorithm's, and behind them what its channel lost."""
        return self.scenario.algorithm.state_size(self.layout) + self.channel.state_size

    @property
    def channel(self) -> Channel:
        """The way of the clients' reports to the server."""
        return Channel(self.scenario.communication, self.start.numel(), self.report_size)

    @property
    def sent_model_size(self) -> int:
        """How many values of the model the server sends."""
        return self.start.numel() if self.scenario.algorithm.sends_model else 0

    @property
    def sent_memory_size(self) -> int:
        """How many values the server sends beside the model."""
        algorithm = self.scenario.algorithm
        return algorithm.memory_size(self.layout) if algorithm.sends_memory else 0

    @property
    def personalises(self) -> bool:
        """Whether clients have models of their own, and records held back to test them on."""
        return self.scenario.algorithm.personalises and self.holdings.held_back is not None

    @property
    def bytes_down(self) -> int:
        """What the server sends to a client in a round."""
        return 4 * (self.sent_model_size + self.sent_memory_size)

    @property
    def bytes_up(self) -> int:
        """What a client sends in a round."""
        return self.channel.bytes_up

    @property
    def stacks(self) -> bool:
        """Whether the server needs every client's report by itself, and not only their sum."""
        return self.scenario.algorithm.stacks or self.scenario.asynchronous is not None

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
    probe = probing(scenario, task)
    module = build_model(scenario.model, task.signature, scenario.seed).to(device)
    check_model(module, scenario.privacy.example is not None)
    check_reports(scenario.algorithm, Layout.of(module))
    scenario.algorithm.check(Layout.of(module))
    start = vector_of(module)
    pace = paced(scenario, module, population)
    schedule = pace.schedule if pace is not None else None
    plan = prepared[1] if prepared else make_plan(scenario, population.sizes, schedule)
    rest, cached = without_prefix(module, task, scenario.engine.memory_gib * 2**30)
    name, trainer, reason = pick_trainer(scenario, rest, cached, len(population))
    reason += "" if rest is module else "; its frozen first layers are applied to every example once"
    if scenario.privacy.example is not None:
        neighbour_replay(trainer, start, scenario.privacy.example.clip_norm, generator(scenario.seed, Stream.REPLAY))
    parts = (scenario, task, unseen, probe, holdings, population, plan, module, start, trainer)
    return Federation(*parts, name, reason, workers(scenario), pace)


def paced(scenario: Scenario, module: nn.Module, population: Population) -> Pace | None:
    """The clients' devices and what a round asks of them; None where time is not simulated. Raises ``BadInput``."""
    algorithm, layout = scenario.algorithm, Layout.of(module)
    memory, report = algorithm.memory_size(layout), algorithm.report_size(layout)
    if problems := list(check_sent(scenario, report - layout.size, memory)):
        raise BadInput("; ".join(problems) + ".")
    received = (layout.size if algorithm.sends_model else 0) + (memory if algorithm.sends_memory else 0)
    sent = Channel(scenario.communication, layout.size, report).bytes_up
    return make_pace(scenario, population.sizes, 4 * received, sent)


def _check_clients(scenario: Scenario, holdings: Holdings) -> None:
    """Raise ``BadInput`` for what only the loaded data shows: how many clients train, whose test records these are."""
    clients = len(holdings.population)
    problems = [*check_clients(scenario, clients), *check_places(scenario, clients)]
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
