"""The server side: the round loop, inside a Flower ``ServerApp``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp
from torch import Tensor

from fedsim.aggregation import ServerStep, WeightedSum
from fedsim.errors import BudgetExhausted, FedsimError
from fedsim.federation import Federation
from fedsim.messages import MalformedMessage, TrainJob, pack_job, unpack_reply
from fedsim.params import Layout, bind_vector
from fedsim.privacy.events import Event
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.plan import ExamplePlan
from fedsim.privacy.sampling import Ids
from fedsim.record import Progress, RunDirectory
from fedsim.seeding import Stream, generator

app = ServerApp()


@dataclass
class Session:
    """A run in progress: the federation, its record, its ledger, the model, and where it stands."""

    federation: Federation
    directory: RunDirectory
    ledger: Ledger
    server: ServerStep
    participations: np.ndarray[Any, np.dtype[np.int32]]
    progress: Progress = field(default_factory=Progress)
    metrics: dict[str, float] = field(default_factory=dict)
    on_round: Callable[[dict[str, Any]], None] = lambda row: None

    @property
    def finished(self) -> bool:
        """All rounds are done, or early stopping says so."""
        return self.progress.round >= self.federation.scenario.rounds or self.early_stopped

    @property
    def early_stopped(self) -> bool:
        """The test loss has not improved for ``patience`` evaluations."""
        stopping = self.federation.scenario.evaluation.early_stopping
        return stopping is not None and self.progress.stale_evaluations >= stopping.patience


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Flower's entry. Our engines bring the session on the grid; under ``flwr run`` the run's config names it."""
    session = getattr(grid, "session", None)
    if session is not None:
        run_rounds(session, grid)
        return
    from fedsim.running import run_on_grid

    run_on_grid(grid, str(context.run_config["scenario"]))


def run_rounds(session: Session, grid: Grid) -> None:
    """The round loop. Raises ``BudgetExhausted`` before a round that the budget does not allow."""
    federation, server = session.federation, session.server
    while not session.finished:
        started, round_ = time.perf_counter(), session.progress.round + 1
        cohort = draw_cohort(session, round_)
        session.ledger.charge(round_, federation.plan.charges(cohort))
        jobs = make_jobs(session, grid, round_, cohort)
        replies = grid.send_and_receive([pack_job(job, node) for node, job in jobs.items()])
        total, dropped, invalid = collect(session, jobs, replies)
        update = release(federation, total, round_)
        server.step(update)
        if not torch.isfinite(server.params).all():
            raise FedsimError(
                f"Training diverged in round {round_}: the model is NaN or infinite. Lower a learning rate."
            )
        session.participations[cohort] += 1
        session.progress.invalid_updates += invalid
        finish_round(session, round_, cohort, dropped, started)


def draw_cohort(session: Session, round_: int) -> Ids:
    """The round's clients, without those whose example-level budget is spent.

    Raises ``BudgetExhausted`` when fewer clients can still take part than a round expects.
    """
    federation = session.federation
    clients, plan = len(federation.population), federation.plan
    cohort = plan.sampling.draw(clients, generator(federation.scenario.seed, Stream.COHORT, round_))
    if plan.example is None or plan.example.budget is None:
        return cohort
    able = _able(session, plan.example, cohort)
    if len(able) < len(cohort):
        left = len(_able(session, plan.example, np.arange(clients)))
        expected = plan.sampling.participation(clients) * clients
        if left < expected:
            raise BudgetExhausted(
                f"Round {round_} would exceed the example-level budget of epsilon {plan.example.budget:g} at "
                f"{clients - left} of {clients} clients; only {left} can still take part."
            )
    return able


def _able(session: Session, plan: ExamplePlan, clients: Ids) -> Ids:
    """The clients that can pay for one more round."""
    able = [
        charge.clients[session.ledger.affordable(charge)]
        for charge in plan.charges(clients)
        if charge.clients is not None
    ]
    return np.sort(np.concatenate(able)) if able else clients


def make_jobs(session: Session, grid: Grid, round_: int, cohort: Ids) -> dict[int, TrainJob]:
    """The cohort spread over the nodes, one job each; no node gets an empty one."""
    nodes = sorted(grid.get_node_ids())
    scenario = session.federation.scenario
    params = session.server.params.detach().cpu().numpy().copy()
    text = scenario.to_toml()
    return {
        node: TrainJob(round_, text, scenario.digest, part, params)
        for node, part in zip(nodes, np.array_split(cohort, max(1, len(nodes))), strict=False)
        if len(part)
    }


def collect(session: Session, jobs: dict[int, TrainJob], replies: Any) -> tuple[WeightedSum, int, int]:
    """Sum the nodes' replies; also how many clients dropped out and how many updates were invalid.

    A client that drops out is a zero vector: its share of the privacy is spent all the same. Raises ``FedsimError`` if
    every node failed, or if a node's noise does not match what the ledger was charged.
    """
    federation = session.federation
    size = federation.start.numel()
    total, answered, invalid, failure = WeightedSum(size, federation.device), 0, 0, ""
    for message in replies:
        job = jobs[message.metadata.src_node_id]
        try:
            reply = unpack_reply(_content(message), size, len(job.clients))
        except MalformedMessage as error:
            failure = str(error)
            continue
        if reply.events != _charged_events(federation, job.clients):
            raise FedsimError(
                "A node's privacy noise does not match what the ledger was charged for it; the run stops."
            )
        total.add_sum(torch.from_numpy(reply.total).to(federation.device), reply.weight, reply.clients)
        answered, invalid = answered + reply.clients, invalid + reply.invalid
    asked = sum(len(job.clients) for job in jobs.values())
    if asked and not answered:
        raise FedsimError(f"No node answered in this round. The last reason: {failure or 'no reply'}")
    if answered and invalid == answered and federation.plan.client is None:
        raise FedsimError("Training diverged: every client's update is NaN or infinite. Lower a learning rate.")
    return total, asked - answered, invalid


def _content(message: Message) -> Message:
    if message.has_error():
        raise MalformedMessage(message.error.reason or f"error {message.error.code}")
    return message


def _charged_events(federation: Federation, clients: Ids) -> Counter[Event]:
    events: Counter[Event] = Counter()
    if federation.plan.example:
        for charge in federation.plan.example.charges(clients):
            assert charge.clients is not None
            events[charge.event] += charge.count * len(charge.clients)
    return events


def release(federation: Federation, total: WeightedSum, round_: int) -> Tensor:
    """The round's update: under client-level privacy noised, over the public expected weight; else the mean."""
    plan = federation.plan.client
    if plan is None:
        return total.total / total.weight if total.weight else total.total
    rng = generator(federation.scenario.seed, Stream.SERVER_NOISE, round_)
    noised, _ = plan.mechanism.release(total.total, rng)
    return noised / plan.expected_weight


def finish_round(session: Session, round_: int, cohort: Ids, dropped: int, started: float) -> None:
    """Evaluate, write the record's line, save the checkpoint, and tell whoever watches."""
    federation, progress = session.federation, session.progress
    evaluation = federation.scenario.evaluation
    due = round_ % evaluation.every == 0 or round_ == federation.scenario.rounds
    if due:
        session.metrics = evaluate(federation, session.server.params)
        better = session.metrics["loss"] < progress.best_loss
        progress.best_loss = min(progress.best_loss, session.metrics["loss"])
        progress.stale_evaluations = 0 if better else progress.stale_evaluations + 1
    model_bytes = 4 * federation.start.numel()
    spent = {plan.unit: session.ledger.spent(plan.unit, plan.delta) for plan in federation.plan.units}
    seconds = time.perf_counter() - started
    row = {
        "round": round_,
        "seconds": round(seconds, 6),
        "cohort": len(cohort),
        "dropped": dropped,
        **{name: session.metrics[name] if due else None for name in federation.task.metric_names},
        "bytes_up": (len(cohort) - dropped) * model_bytes,
        "bytes_down": len(cohort) * model_bytes,
        "epsilon_example": spent.get("example"),
        "epsilon_client": spent.get("client"),
    }
    progress.round = round_
    progress.seconds += seconds
    session.directory.append_round(row, progress)
    tensors = session.server.state() | {"participations": torch.from_numpy(session.participations)}
    session.directory.save_checkpoint(tensors, progress)
    session.on_round(row)


def evaluate(federation: Federation, params: Tensor) -> dict[str, float]:
    """Metrics of the model with these parameters on the held-out test data."""
    bind_vector(federation.module, params)
    return federation.task.evaluate(federation.module)


def named_parameters(federation: Federation, params: Tensor) -> dict[str, Tensor]:
    """The flat parameters as named tensors."""
    return Layout.of(federation.module).views(params)
