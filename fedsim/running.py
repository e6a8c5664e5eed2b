"""Running a scenario from Python: ``fedsim.run``, ``fedsim.resume`` and what they return."""

from __future__ import annotations

import json
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedsim.aggregation.server_step import ServerStep
from fedsim.asynchronous.waiting import Waiting
from fedsim.attacking import warn_of_attackers
from fedsim.client import host
from fedsim.client_store import ClientStore
from fedsim.combining import Combiner
from fedsim.engines import opened
from fedsim.engines.flower import await_nodes, sent_file
from fedsim.errors import BadInput, BudgetExhausted
from fedsim.federation import Federation, build_federation, pinned
from fedsim.fingerprint import fingerprint
from fedsim.folds import check_folds, discard_unbegun, run_folds
from fedsim.loading import load_scenario, parse_scenario
from fedsim.privacy.ledger import Ledger, Limit
from fedsim.privacy.planning import correlation
from fedsim.record import RunDirectory
from fedsim.report import build_report
from fedsim.result import Result
from fedsim.resuming import go_back
from fedsim.scenario import Scenario
from fedsim.server import Session, named_parameters, run_rounds
from fedsim.server import app as server_app
from fedsim.summary import client_statistics, pictures, summarise
from fedsim.tracking.live import Live, both, check_sinks

if TYPE_CHECKING:
    from flwr.serverapp import Grid

OnRound = Callable[[dict[str, Any]], None]
OnReady = Callable[[Federation], None]


def run(
    scenario: Scenario | str | Path,
    out: str | Path | None = None,
    on_round: OnRound | None = None,
    on_ready: OnReady | None = None,
    until: int | None = None,
) -> Result:
    """Run a scenario or its file; ``out`` is the run directory (default ``runs/<name>-<digest>-<time>``), a new one.

    ``on_ready`` is called once with the federation, ``on_round`` after every round with its line of rounds.jsonl. After
    ``until`` rounds the run pauses: it is "interrupted", and can be resumed. A cross-validation does not pause.
    Raises ``BadInput`` before anything is written, or ``FedsimError`` later; a spent budget is no error but a status.
    """
    began = time.perf_counter()
    if out is not None and Path(out).exists():
        raise BadInput(f"The run directory {out} exists already; name another, or use --resume to go on.")
    if not isinstance(scenario, Scenario):
        scenario = load_scenario(scenario)
    check_sinks(scenario)
    if len(scenario.runs) > 1:
        scenario = pinned(scenario)
        together = check_folds(scenario)
        directory = RunDirectory.create(Path(out) if out is not None else None, scenario)
        with directory.held():
            return _run_folds(scenario, directory, together, (on_round, on_ready))
    if scenario.engine.kind == "deployment":
        from fedsim.deployment.running import run_deployed

        return run_deployed(scenario, Path(out) if out is not None else None, (on_round, on_ready))
    federation = build_federation(scenario)
    _check_shared_ledger(federation)
    with opened(federation) as (grid, placed):
        directory = RunDirectory.create(Path(out) if out is not None else None, federation.scenario)
        with directory.held():
            session = _open(placed, directory, on_round)
            session.until = until
            with session.ledger:
                return _execute(session, grid, began, on_ready)


def _run_folds(
    scenario: Scenario, directory: RunDirectory, together: Federation, watchers: tuple[OnRound | None, OnReady | None]
) -> Result:
    """Run the folds, or go on with them: a finished one is not run again."""

    def run_fold(fold: Scenario, path: Path) -> dict[str, Any]:
        discard_unbegun(path)
        if not path.exists():
            return run(fold, path, *watchers).summary
        return RunDirectory(path).ended() or resume(path, *watchers).summary

    run_folds(scenario, directory, together, run_fold)
    return Result(directory.path, _read_summary(directory.path))


def resume(
    path: str | Path, on_round: OnRound | None = None, on_ready: OnReady | None = None, until: int | None = None
) -> Result:
    """Go on with a run that was stopped, from its last checkpoint; the result is that of never having stopped.

    A run that came to its end is left as it is. Raises ``BadInput`` while another process works on the run.
    """
    directory = RunDirectory(Path(path))
    file = directory.path / "scenario.toml"
    begun = (directory.path / "environment.json").exists()
    if not begun and (file.exists() or (directory.path / "rounds.jsonl").exists()):
        raise BadInput(f"{path} was stopped before its run began; remove it and run the scenario again.")
    if not file.exists():
        raise BadInput(f"{path} is not a run directory: it has no scenario.toml.")
    with directory.held():
        if (summary := directory.ended()) is not None:
            text = "%s came to its end before (%s); nothing was done."
            logging.getLogger("fedsim").warning(text, path, summary["status"])
            return Result(directory.path, summary)
        scenario = parse_scenario(file.read_text(), directory.path.name, where=str(file))
        return _resume(scenario, directory, (on_round, on_ready), until)


def _resume(
    scenario: Scenario, directory: RunDirectory, watchers: tuple[OnRound | None, OnReady | None], until: int | None
) -> Result:
    began = time.perf_counter()
    check_sinks(scenario)
    if len(scenario.runs) > 1:
        together = check_folds(scenario)
        directory.discard_end()
        return _run_folds(scenario, directory, together, watchers)
    if scenario.engine.kind == "deployment":
        from fedsim.deployment.running import resume_deployed

        return resume_deployed(directory, scenario, watchers)
    with opened(build_federation(scenario)) as (grid, federation):
        session = _open(federation, directory, watchers[0])
        session.until = until
        with session.ledger:
            go_back(session)
            return _execute(session, grid, began, watchers[1])


def run_on_grid(grid: Grid, scenario: str) -> None:
    """Run a scenario file on a grid that Flower's own runtime made (``flwr run``).

    Raises ``BadInput``, or ``FedsimError`` if no node appears.
    """
    from fedsim.loading import load_scenario

    began = time.perf_counter()
    await_nodes(grid)
    loaded = load_scenario(sent_file(grid, scenario))
    if len(loaded.runs) > 1:
        raise BadInput("evaluation.folds: under Flower's own runtime name one of them, evaluation.fold.")
    check_sinks(loaded)
    if loaded.engine.kind != "inprocess":
        raise BadInput(f'engine.kind = "{loaded.engine.kind}": Flower\'s own runtime is the engine here; leave it out.')
    federation = build_federation(loaded)
    _check_shared_ledger(federation)
    directory = RunDirectory.create(None, federation.scenario)
    with directory.held():
        session = _open(federation, directory, None)
        session.engine, session.sends_state = "flower", True
        setup = time.perf_counter() - began
        with session.ledger:
            result = _finish(session, *_rounds(session, lambda: run_rounds(session, grid)), setup=setup)
    logging.getLogger("flwr").info("fedsim: %s; %s", result.summary["status_reason"], result.directory.resolve())


def _open(federation: Federation, directory: RunDirectory, on_round: OnRound | None) -> Session:
    """A run in progress, at its beginning."""
    plan, scenario, size = federation.plan, federation.scenario, federation.state_size
    here = federation.holdings.remote is None  # else clients keep their state themselves
    session = Session(
        federation=federation,
        directory=directory,
        ledger=_ledger(federation, directory),
        server=ServerStep(scenario.algorithm.server, federation.start),
        clip_norms=plan.clip_norms(),
        combiner=Combiner(federation),
        memory=torch.zeros(scenario.algorithm.memory_size(federation.layout), device=federation.device),
        store=ClientStore(directory.path / "state", len(federation.population), size) if size and here else None,
        correlation=correlation(plan.client, scenario.rounds) if plan.client else None,
    )
    session.progress.scenario = fingerprint(scenario)
    schedule = federation.pace.schedule if federation.pace is not None else None
    if schedule is not None:
        session.waiting = Waiting.of(schedule, federation.report_size, federation.start.numel())
    session.tracking = Live(scenario, directory.path) if scenario.output is not None else None
    session.on_round = both(session.tracking, on_round or session.on_round)
    return session


def _ledger(federation: Federation, directory: RunDirectory) -> Ledger:
    """The run's own ledger, or the one that it shares with other runs."""
    plan, shared = federation.plan, federation.scenario.privacy.ledger
    path = Path(shared) if shared else directory.path / "ledger.db"
    limits = {unit.unit: Limit(unit.budget, unit.deltas) for unit in plan.units if unit.budget is not None}
    # With a seed, a round that is run again after a crash releases the same values, so it is charged once. With secure
    # randomness it releases new ones: a name of its own makes every start of the run pay for what it releases. Sites
    # send the same answer again, whatever their randomness; only noise that the server adds would be new.
    same = plan.randomness == "reproducible" or (federation.holdings.remote is not None and not plan.trusts_the_server)
    name = directory.run_id if same else f"{directory.run_id}/{secrets.token_hex(4)}"
    return Ledger(path, federation.population.digest(), len(federation.population), name, limits)


def _check_shared_ledger(federation: Federation) -> None:
    """Raise ``BadInput`` if the shared ledger is another population's, or holds events of another relation."""
    shared = federation.scenario.privacy.ledger
    if shared is None:
        return
    if not Path(shared).parent.is_dir():
        raise BadInput(f'privacy.ledger = "{shared}": there is no folder {Path(shared).parent}.')
    if not Path(shared).exists():
        return
    ledger = Ledger(Path(shared), federation.population.digest(), len(federation.population), run="")
    client = federation.plan.client
    for event, _ in (part for composition in ledger.compositions("client") for part in composition):
        if client is not None and event.relation != client.event.relation:
            raise BadInput(
                f'privacy.ledger = "{shared}": it holds client-level events under {event.relation}, which do not '
                f"compose with this run's {client.event.relation}. Use a ledger for each relation."
            )
    ledger.close()


def _execute(session: Session, grid: Grid, began: float, on_ready: OnReady | None) -> Result:
    """Run the rounds on the engine's grid and write what a run leaves behind, however it ended."""
    from flwr.app import Context, RecordDict

    if on_ready:
        on_ready(session.federation)
    warn_of_attackers(session.federation)
    host(session.federation, session.store)
    session.engine, session.sends_state = session.federation.scenario.engine.kind, not grid.keeps_state
    grid.session = session
    config = {"scenario": session.federation.scenario.name}
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    setup = time.perf_counter() - began
    status, reason = _rounds(session, lambda: server_app(grid, context))
    return _finish(session, status, reason, setup)


def _rounds(session: Session, loop: Callable[[], None]) -> tuple[str, str]:
    """Run the loop; how it ended, and why."""
    try:
        loop()
    except BudgetExhausted as error:
        return "budget_exhausted", str(error)
    except KeyboardInterrupt:
        return "interrupted", f"Stopped by the user after round {session.progress.round}."
    if not session.finished:
        return "interrupted", f"Paused after round {session.progress.round}."
    if session.early_stopped and session.progress.round < session.federation.scenario.rounds:
        return "early_stopped", "The test loss no longer improved."
    return "completed", "All rounds were run."


def _finish(session: Session, status: str, reason: str, setup: float) -> Result:
    """Write what a run leaves behind."""
    directory, federation = session.directory, session.federation
    if session.store is not None:
        session.store.rewind(session.progress.round)  # a round that was not finished is no part of what is said
    directory.save_model(named_parameters(federation, session.server.params))
    directory.write_json("clients.json", client_statistics(session))
    if (seen := pictures(session)) is not None:
        directory.write_json("pictures.json", seen)
    summary = summarise(session, status, reason, setup)
    told = {"tracking": session.tracking.close(summary)} if session.tracking is not None else {}
    directory.write_json("summary.json", summary | told)
    if federation.scenario.privacy.ledger is not None:
        session.ledger.copy_to(directory.path / "ledger.db")
    session.ledger.close()
    build_report(directory.path)
    return Result(directory.path, _read_summary(directory.path))


def _read_summary(path: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return summary
