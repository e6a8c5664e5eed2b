"""Running a scenario on real sites: the same rounds, the same record, another grid."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.deployment.agreement import agreed
from fedsim.deployment.control import find_connection
from fedsim.deployment.evaluation import SiteEvaluation
from fedsim.deployment.link import Link
from fedsim.deployment.roster import Member, ask_sites, load_members, save_members
from fedsim.deployment.server_federation import server_federation
from fedsim.deployment.serving import site_keys
from fedsim.deployment.site_log import SiteLog
from fedsim.engines.deployment import DeploymentGrid
from fedsim.errors import BadInput
from fedsim.record import RunDirectory
from fedsim.result import Result
from fedsim.resuming import go_back
from fedsim.running import _finish, _open, _rounds
from fedsim.scenario import Deployment, Scenario
from fedsim.server import Session, run_rounds

if TYPE_CHECKING:
    from fedsim.running import OnReady, OnRound

    Watchers = tuple[OnRound | None, OnReady | None]

MEMBERS = "sites.json"


def run_deployed(scenario: Scenario, out: Path | None, watchers: Watchers) -> Result:
    """Run a scenario on the sites behind its connection; raises ``BadInput`` or ``FedsimError`` before anything is
    written if they are too few or their data does not fit.
    """
    began, scenario = time.perf_counter(), _secure(scenario)
    with _connected(scenario) as (grid, log, keys):
        members = ask_sites(grid, keys, _settings(scenario), log)
        evaluation = _evaluation(grid, scenario, members, log)
        federation = server_federation(scenario, members, evaluation)
        directory = RunDirectory.create(out, scenario)
        with directory.held():
            save_members(directory.path / MEMBERS, members)
            session = _open(federation, directory, watchers[0])
            with session.ledger:
                return _execute(session, grid, log, began, watchers)


def resume_deployed(directory: RunDirectory, scenario: Scenario, watchers: Watchers) -> Result:
    """Go on with a run on the sites that it began with; those that are not online are dropped until they are."""
    began, members = time.perf_counter(), load_members(directory.path / MEMBERS)
    with _connected(scenario) as (grid, log, _):
        federation = server_federation(scenario, members, _evaluation(grid, scenario, members, log))
        session = _open(federation, directory, watchers[0])
        with session.ledger:
            go_back(session)
            return _execute(session, grid, log, began, watchers)


def _execute(session: Session, grid: DeploymentGrid, log: SiteLog, began: float, watchers: Watchers) -> Result:
    if watchers[1]:
        watchers[1](session.federation)
    log.attach(session.directory.path)
    session.engine = "deployment"
    grid.session, grid.run_name = session, session.directory.run_id
    setup = time.perf_counter() - began
    status, reason = _rounds(session, lambda: run_rounds(session, grid))
    return _finish(session, status, reason, setup)


def _secure(scenario: Scenario) -> Scenario:
    """With real people's records, randomness comes from the operating system."""
    return replace(scenario, privacy=replace(scenario.privacy, randomness="secure"))


def _settings(scenario: Scenario) -> Deployment:
    settings = scenario.engine.deployment
    if settings is None:
        raise BadInput(
            'engine.kind = "deployment": name the connection, by --connection NAME or engine.deployment.connection.'
        )
    return settings


@contextmanager
def _connected(scenario: Scenario) -> Iterator[tuple[DeploymentGrid, SiteLog, dict[str, bytes]]]:
    """A grid over the scenario's connection, what is noted of sites, and the keys of those that are registered."""
    settings, log = _settings(scenario), SiteLog(_say)
    connection = find_connection(settings.connection)
    keys = site_keys(connection.secret.parent)
    grid = DeploymentGrid(Link(connection, _say), agreed(scenario), settings.round_seconds, log)
    try:
        yield grid, log, keys
    finally:
        grid.close()


def _evaluation(grid: DeploymentGrid, scenario: Scenario, members: list[Member], log: SiteLog) -> SiteEvaluation:
    grid.members = members
    return SiteEvaluation(grid, members, _settings(scenario).test_data is not None, log)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
