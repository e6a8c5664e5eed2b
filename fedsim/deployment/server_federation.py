"""A scenario made concrete at the server, which has no training records: sizes, signature and names are announced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedsim.checks import check_clients
from fedsim.checks_aggregation import check_reports
from fedsim.data import Dataset, Examples
from fedsim.deployment.evaluation import SiteEvaluation
from fedsim.deployment.roster import Member
from fedsim.deployment.site_data import load_site_data
from fedsim.deployment.site_settings import SiteSettings
from fedsim.errors import BadInput
from fedsim.federation import Federation, pick_device
from fedsim.holdings import Holdings
from fedsim.models import build_model
from fedsim.params import Layout, vector_of
from fedsim.population import Population
from fedsim.privacy.gate import check_model
from fedsim.privacy.planning import make_plan
from fedsim.scenario import Scenario
from fedsim.tasks import TASKS_OF, Task
from fedsim.training.pick import workers
from fedsim.training.vectorised import VectorisedTrainer

# A file of the server's own is all for testing; loading it holds out a part, which joins the rest again.
WHOLE = SiteSettings(name="server", server="here:1", held_back=0.5)


def server_federation(scenario: Scenario, members: list[Member], sites: SiteEvaluation) -> Federation:
    """The federation of the sites that take part; client ids follow their order. Raises ``BadInput``."""
    problems = list(check_clients(scenario, len(members)))
    if problems:
        raise BadInput("; ".join(problems) + ".")
    sizes = np.array([member.announcement.records for member in members], np.int64)
    data, device = _stand_in(scenario, members), pick_device(scenario.engine.device)
    population = _population(sizes)
    holdings = Holdings(data, population, population, remote=sites)
    task = Task.of(scenario.task or TASKS_OF[data.kind], data, device)
    module = build_model(scenario.model, task.signature, scenario.seed).to(device)
    check_model(module, scenario.privacy.example is not None)
    check_reports(scenario.algorithm, Layout.of(module))
    scenario.algorithm.check(Layout.of(module))
    plan = make_plan(scenario, sizes)
    trainers = sorted({member.announcement.trainer for member in members})
    parts = (scenario, task, None, None, holdings, population, plan, module, vector_of(module))
    reason = f"every site picks its own: {', '.join(trainers)}"
    return Federation(*parts, VectorisedTrainer(module, task), "sites", reason, workers(scenario))


def _population(sizes: NDArray[np.int64]) -> Population:
    """So many records each; all of a client's are its one stand-in, as the server holds none of them."""
    owners = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    return Population(owners, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))


def _stand_in(scenario: Scenario, members: list[Member]) -> Dataset:
    """A data set of the announced signature, with one record of zeros for each site; test records are the server's."""
    like, count = members[0].announcement, len(members)
    features = np.zeros((count, *like.shape), np.int64 if like.vocabulary else np.float32)
    owners = np.arange(count, dtype=np.int64)
    train = Examples(features, _labels(like.kind, count, like.shape, len(like.names)), owners)
    names = tuple(member.name for member in members)
    kind: Any = like.kind
    stand_in = Dataset(train, train, like.names, kind, like.vocabulary, owners=names)
    settings = scenario.engine.deployment
    if settings is None or settings.test_data is None:
        return stand_in
    own = load_site_data(scenario, settings.test_data, WHOLE)
    if (own.shape, own.names, own.kind, own.vocabulary) != like.signature:
        raise BadInput(f"engine.deployment.test_data = {settings.test_data}: it is unlike the sites' data.")
    parts = [(getattr(own.train, key), getattr(own.test, key)) for key in ("features", "labels")]
    features, labels = (np.concatenate(part) for part in parts)
    return replace(stand_in, test=Examples(features, labels))


def _labels(kind: str, count: int, shape: tuple[int, ...], outputs: int) -> NDArray[Any]:
    if kind == "numbers":
        return np.zeros((count, outputs), np.float32)
    return np.zeros(count if kind == "classes" else (count, *shape), np.int64)
