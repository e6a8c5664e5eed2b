"""A scenario made concrete at one site: its own records, and a plan in which it is one client of many."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedsim.data import Dataset
from fedsim.deployment.site_data import load_site_data
from fedsim.deployment.site_settings import SiteSettings
from fedsim.federation import Federation, pick_device
from fedsim.holdings import Holdings
from fedsim.models import build_model
from fedsim.params import Layout, vector_of
from fedsim.population import Population
from fedsim.privacy.gate import check_model
from fedsim.privacy.plan import PrivacyPlan
from fedsim.privacy.planning import make_plan
from fedsim.privacy.replay import neighbour_replay
from fedsim.scenario import EngineSettings, Scenario
from fedsim.seeding import Stream, generator
from fedsim.tasks import TASKS_OF, Task
from fedsim.training import pick_trainer
from fedsim.training.pick import workers
from fedsim.training.prefix import without_prefix


def site_federation(scenario: Scenario, settings: SiteSettings, where: str, client: int, sites: int) -> Federation:
    """The federation as this site sees it; raises ``BadInput`` for data that does not fit the scenario.

    The plan takes the other sites to be as large as this one: of all that it says, only this site's part is used.
    """
    data = load_site_data(scenario, where, settings)
    local = replace(scenario, engine=EngineSettings(trainer=scenario.engine.trainer))
    population = own_population(len(data.train), client, sites)
    plan = replace(make_plan(local, np.full(sites, len(data.train))), randomness="secure")
    return _assemble(local, data, population, plan)


def own_population(records: int, client: int, sites: int) -> Population:
    """``sites`` clients of which one holds all ``records``."""
    offsets = np.where(np.arange(sites + 1) > client, records, 0).astype(np.int64)
    return Population(np.arange(records, dtype=np.int64), offsets)


def _assemble(scenario: Scenario, data: Dataset, population: Population, plan: PrivacyPlan) -> Federation:
    device = pick_device("auto")
    task = Task.of(scenario.task or TASKS_OF[data.kind], data, device)
    module = build_model(scenario.model, task.signature, scenario.seed).to(device)
    check_model(module, scenario.privacy.example is not None)
    scenario.algorithm.check(Layout.of(module))
    start = vector_of(module)
    rest, cached = without_prefix(module, task, scenario.engine.memory_gib * 2**30)
    name, trainer, reason = pick_trainer(scenario, rest, cached, 1)
    if scenario.privacy.example is not None:
        draws = generator(scenario.seed, Stream.REPLAY)
        neighbour_replay(trainer, start, scenario.privacy.example.clip_norm, draws)
    holdings = Holdings(data, population, population)
    parts = (scenario, task, None, None, holdings, population, plan, module, start, trainer)
    return Federation(*parts, name, reason, workers(scenario))
