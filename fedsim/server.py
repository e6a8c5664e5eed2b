"""The server side: the round loop, inside a Flower ``ServerApp``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray
from torch import Tensor

from fedsim.aggregation.server_step import ServerStep
from fedsim.attacking import spread
from fedsim.client_store import ClientStore
from fedsim.collecting import Collected, collect
from fedsim.combining import Combiner
from fedsim.errors import BudgetExhausted, FedsimError
from fedsim.evaluation import evaluate, metric_names
from fedsim.federation import Federation
from fedsim.messages import TrainJob, pack_job
from fedsim.models.transfer import whole_model
from fedsim.privacy.correlated import CorrelatedNoise
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import adapted
from fedsim.privacy.plan import ExamplePlan, Unit, adaptive
from fedsim.privacy.sampling import Ids
from fedsim.record import Progress, RunDirectory
from fedsim.seeding import Stream, private_generator

app = ServerApp()


@dataclass
class Session:
    """A run in progress: the federation, its record, its ledger, the model, and where it stands."""

    federation: Federation
    directory: RunDirectory
    ledger: Ledger
    server: ServerStep
    correlation: CorrelatedNoise | None
    clip_norms: dict[Unit, float]
    combiner: Combiner
    memory: Tensor  # what the algorithm's server keeps beside the model
    store: ClientStore | None = None  # what clients keep from round to round
    can_pay: NDArray[np.bool_] | None = None  # which clients can pay for one more round; None until somebody asks
    progress: Progress = field(default_factory=Progress)
    metrics: dict[str, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    on_round: Callable[[dict[str, Any]], None] = lambda row: None
    until: int | None = None  # after so many rounds it pauses

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs beside ``progress``."""
        units = sorted(self.clip_norms)
        tensors = {"clip_norms": torch.tensor([self.clip_norms[unit] for unit in units], dtype=torch.float64)}
        if self.correlation is not None:
            tensors["correlation"] = self.correlation.state()
        return self.server.state() | tensors | self.combiner.state() | {"memory": self.memory}

    def restore(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Take a checkpoint's state back."""
        self.progress = progress
        self.losses = [float(row["loss"]) for row in self.directory.rounds() if row["loss"] is not None]
        values = tensors.pop("clip_norms").tolist()
        self.clip_norms = dict(zip(sorted(self.clip_norms), values, strict=True))
        if self.correlation is not None:
            self.correlation.restore(tensors.pop("correlation"))
        self.memory = tensors.pop("memory").to(self.memory.device)
        self.combiner.restore(tensors)
        self.server.restore(tensors)
        if self.store is not None:
            self.store.rewind(progress.round)

    @property
    def finished(self) -> bool:
        """All rounds are done, or early stopping says so."""
        return self.progress.round >= self.federation.scenario.rounds or self.early_stopped

    @property
    def paused(self) -> bool:
        """It went as far as it was to go for now."""
        return self.until is not None and self.progress.round >= self.until

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
    while not (session.finished or session.paused):
        started, round_ = time.perf_counter(), session.progress.round + 1
        cohort = draw_cohort(session, round_)
        session.ledger.charge(round_, federation.plan.charges(round_, cohort))
        look_again(session, cohort)
        jobs = make_jobs(session, grid, round_, cohort)
        replies = grid.send_and_receive([pack_job(job, node) for node, job in jobs.items()])
        sums = collect(session, jobs, replies)
        step(session, release(session, sums, round_), sums)
        if not torch.isfinite(server.params).all():
            raise FedsimError(
                f"Training diverged in round {round_}: the model is NaN or infinite. Lower a learning rate."
            )
        adapt_to_gradients(session, sums, cohort)
        session.progress.invalid_updates += sums.invalid
        finish_round(session, round_, cohort, sums.dropped, started)


def draw_cohort(session: Session, round_: int) -> Ids:
    """The round's clients, without those whose example-level budget is spent.

    Raises ``BudgetExhausted`` when fewer clients can still take part than a round expects.
    """
    federation = session.federation
    clients, plan = len(federation.population), federation.plan
    rng = private_generator(plan.randomness, Stream.COHORT, federation.scenario.draw_seed, round_)
    # A round that was charged before a crash is run again with whom it was charged for.
    charged = session.ledger.cohort(round_)
    if charged is not None:
        return charged
    cohort = plan.sampling.draw(clients, round_, rng)
    if plan.example is None or plan.example.budget is None:
        return cohort
    able = _able(session, plan.example, cohort)
    session.progress.left_out += len(cohort) - len(able)
    if len(able) < len(cohort):
        left = _left(session, plan.example)
        expected = plan.sampling.participation(clients) * clients
        # Where sampling clients amplifies, who was drawn is secret, and stopping would tell of it.
        if left < expected and not plan.hides_the_cohort:
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


def _left(session: Session, plan: ExamplePlan) -> int:
    """How many clients can pay for one more round; all are looked at once, later only those that were charged."""
    shared = session.federation.scenario.privacy.ledger is not None  # then other runs charge clients too
    if session.can_pay is None or shared:
        session.can_pay = np.zeros(len(session.federation.population), bool)
        session.can_pay[_able(session, plan, np.arange(len(session.can_pay)))] = True
    return int(session.can_pay.sum())


def look_again(session: Session, charged: Ids) -> None:
    """Find out which of the clients that were just charged can pay once more, if that is kept."""
    plan = session.federation.plan.example
    if session.can_pay is not None and plan is not None:
        session.can_pay[charged] = False
        session.can_pay[_able(session, plan, charged)] = True


def make_jobs(session: Session, grid: Grid, round_: int, cohort: Ids) -> dict[int, TrainJob]:
    """The cohort spread over the nodes, one job each; no node gets an empty one."""
    nodes = sorted(grid.get_node_ids())
    scenario = session.federation.scenario
    params = session.server.params.detach().cpu().numpy().copy()
    memory = session.memory if scenario.algorithm.sends_memory else session.memory[:0]
    sent = memory.cpu().numpy().copy()
    text = scenario.to_toml()
    rate = scenario.algorithm.local.learning_rate_at(round_, scenario.rounds, session.losses)
    return {
        node: TrainJob(round_, text, scenario.digest, part, params, rate, dict(session.clip_norms), sent)
        for node, part in zip(nodes, spread(session.federation, cohort, max(1, len(nodes))), strict=False)
        if len(part)
    }


def step(session: Session, aggregate: Tensor | None, sums: Collected) -> None:
    """Move the model by what the algorithm makes of the aggregated report; without one it stays where it is."""
    if aggregate is None:
        session.progress.skipped_rounds += 1
        return
    federation, server = session.federation, session.server
    clients, plan = len(federation.population), federation.plan
    # Where noise hides who took part, so must what the algorithm makes of their number.
    took_part = plan.sampling.participation(clients) * clients if plan.client else sums.updates.clients
    algorithm, params = federation.scenario.algorithm, server.params.detach()
    update, memory = algorithm.conclude(aggregate.to(params.dtype), params, session.memory, took_part / clients)
    session.memory = memory
    server.step(update)


def release(session: Session, sums: Collected, round_: int) -> Tensor | None:
    """The round's aggregated report: noised, over the public expected weight, where the server noises; else the mean.

    Aggregators that need every report get those that are finite; None if these are too few.
    """
    federation, total = session.federation, sums.updates
    plan = federation.plan.client
    if federation.stacks:
        return session.combiner.combine(sums.rows, sums.job)
    if plan is None or not federation.plan.trusts_the_server:
        return total.total / total.weight if total.weight else total.total
    rng = private_generator(federation.plan.randomness, Stream.SERVER_NOISE, federation.scenario.draw_seed, round_)
    correlate = session.correlation.next if session.correlation else None
    clip_norm = session.clip_norms["client"]
    released = plan.mechanism(clip_norm * plan.projected).release(total.total, rng, sums.client_count, correlate)
    settings = adaptive(plan)
    if settings is not None and released.count is not None:
        share = released.count / plan.expected_weight + 0.5
        session.clip_norms["client"] = adapted(clip_norm, settings.learning_rate, settings.quantile, share)
    return released.total / plan.expected_weight


def adapt_to_gradients(session: Session, sums: Collected, cohort: Ids) -> None:
    """Move the example-level clip norm by the clients' noised counts; what divides them is public."""
    plan = session.federation.plan.example
    settings = adaptive(plan)
    if plan is None or settings is None or len(cohort) == 0:
        return
    share = sums.example_count / float(plan.steps[cohort].sum() * plan.batch_size) + 0.5
    clip_norm = session.clip_norms["example"]
    session.clip_norms["example"] = adapted(clip_norm, settings.learning_rate, settings.quantile, share)


def finish_round(session: Session, round_: int, cohort: Ids, dropped: int, started: float) -> None:
    """Evaluate, write the record's line, save the checkpoint, and tell whoever watches."""
    federation, progress = session.federation, session.progress
    evaluation = federation.scenario.evaluation
    due = round_ % evaluation.every == 0 or round_ == federation.scenario.rounds
    if due:
        session.metrics = evaluate(federation, session.server.params)
        loss = session.metrics["loss"]
        session.losses += [loss] if not math.isnan(loss) else []
        better = session.metrics["loss"] < progress.best_loss
        progress.best_loss = min(progress.best_loss, session.metrics["loss"])
        progress.stale_evaluations = 0 if better else progress.stale_evaluations + 1
    up, down = federation.channel.bytes_up, 4 * (federation.start.numel() + federation.sent_memory_size)
    spent = {plan.unit: session.ledger.spent(plan.unit, plan.deltas) for plan in federation.plan.units}
    seconds = time.perf_counter() - started
    row = {
        "round": round_,
        "seconds": round(seconds, 6),
        "cohort": len(cohort),
        "dropped": dropped,
        **{name: session.metrics[name] if due else None for name in metric_names(federation)},
        "bytes_up": (len(cohort) - dropped) * up,
        "bytes_down": len(cohort) * down,
        "epsilon_example": spent.get("example"),
        "epsilon_client": spent.get("client"),
        **{f"clip_norm_{plan.unit}": session.clip_norms[plan.unit] for plan in federation.plan.units if adaptive(plan)},
    }
    progress.round = round_
    progress.seconds += seconds
    session.directory.append_round(row, progress)
    session.directory.append_cohort(cohort, progress)
    if session.store is not None:
        session.store.keep(round_)
    session.directory.save_checkpoint(session.state(), progress)
    session.on_round(row)


def named_parameters(federation: Federation, params: Tensor) -> dict[str, Tensor]:
    """The whole model as named tensors: the flat parameters, and what is frozen."""
    return whole_model(federation.module, params)
