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

# Flower's simulation loads the client's side in another thread, and would find a module that is half imported.
import fedsim.client  # noqa: F401
from fedsim.aggregation.server_step import ServerStep
from fedsim.asynchronous.releasing import release_arrived
from fedsim.asynchronous.waiting import Waiting
from fedsim.client_store import ClientStore
from fedsim.collecting import Collected
from fedsim.combining import Combiner
from fedsim.deliveries import count_deliveries, staleness
from fedsim.drawing import draw_cohort, look_again
from fedsim.errors import FedsimError
from fedsim.evaluation import evaluate, metric_names
from fedsim.exchange import exchange
from fedsim.federation import Federation
from fedsim.interrupts import uninterrupted
from fedsim.models.transfer import whole_model
from fedsim.outings import Outing, charges, go_out
from fedsim.personal import personal_metrics
from fedsim.privacy.correlated import CorrelatedNoise
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import adapted
from fedsim.privacy.plan import Unit, adaptive
from fedsim.privacy.sampling import Ids
from fedsim.record import Progress, RunDirectory
from fedsim.seeding import Stream, private_generator
from fedsim.tracking.live import Live

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
    engine: str = "inprocess"  # where clients live, in the report's words
    sends_state: bool = False  # whether it goes to the nodes and comes back, which keep nothing themselves
    waiting: Waiting | None = None  # an asynchronous run's reports that have not arrived
    can_pay: NDArray[np.bool_] | None = None  # which clients can pay for one more round; None until somebody asks
    progress: Progress = field(default_factory=Progress)
    metrics: dict[str, float] = field(default_factory=dict)
    personal: tuple[int, NDArray[np.float64]] | None = None  # the round, and how good the clients' own models were then
    losses: list[float] = field(default_factory=list)
    on_round: Callable[[dict[str, Any]], None] = lambda row: None
    tracking: Live | None = None
    left_out: int = 0  # who was drawn for the round that goes on, but could not pay for it
    until: int | None = None  # after so many rounds it pauses

    def state(self) -> dict[str, Tensor]:
        """Everything a checkpoint needs beside ``progress``."""
        units = sorted(self.clip_norms)
        tensors = {"clip_norms": torch.tensor([self.clip_norms[unit] for unit in units], dtype=torch.float64)}
        if self.correlation is not None:
            tensors["correlation"] = self.correlation.state()
        if self.waiting is not None:
            tensors |= self.waiting.state()
        return self.server.state() | tensors | self.combiner.state() | {"memory": self.memory}

    def restore(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Take a checkpoint's state back."""
        self.progress = progress
        self.losses = [float(row["loss"]) for row in self.directory.rounds() if row["loss"] is not None]
        values = tensors.pop("clip_norms").tolist()
        self.clip_norms = dict(zip(sorted(self.clip_norms), values, strict=True))
        if self.correlation is not None:
            self.correlation.restore(tensors.pop("correlation"))
        if self.waiting is not None:
            self.waiting.restore(tensors)
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
    while not (session.finished or session.paused):
        started, round_ = time.perf_counter(), session.progress.round + 1
        with uninterrupted():
            outing = set_out(session, round_)
            session.ledger.charge(round_, charges(session.federation.plan, outing))
            look_again(session, outing.asked)
        sums = exchange(session, grid, outing)
        with uninterrupted():  # what is said of the run, and its model, are those of a whole number of rounds
            conclude_round(session, sums, outing, started)


def conclude_round(session: Session, sums: Collected, outing: Outing, started: float) -> None:
    """Release what was collected, move the model by it, and record the round; raises ``FedsimError`` on divergence."""
    step(session, release(session, sums, outing.round), outing.uploads(sums.counted))
    if not torch.isfinite(session.server.params).all():
        raise FedsimError(
            f"Training diverged in round {outing.round}: the model is NaN or infinite. Lower a learning rate."
        )
    adapt_to_gradients(session, sums, outing.answering)
    sums.count(session.progress)
    finish_round(session, outing, sums.updates.clients, started)


def set_out(session: Session, round_: int) -> Outing:
    """Who is asked in a round, and what becomes of them on the simulated clock."""
    if session.waiting is not None:
        return Outing.of_turn(session.waiting.turn(round_))
    return go_out(session.federation, round_, draw_cohort(session, round_), session.progress.clock)


def step(session: Session, aggregate: Tensor | None, arrived: int) -> None:
    """Move the model by what the algorithm makes of the aggregated report; without one it stays where it is."""
    if aggregate is None:
        session.progress.skipped_rounds += 1
        return
    federation, server = session.federation, session.server
    clients, plan = len(federation.population), federation.plan
    # Where noise hides who took part, so must what the algorithm makes of their number.
    took_part = plan.client.expected_weight if plan.client and plan.trusts_the_server else arrived
    round_, params = session.progress.round + 1, server.params.detach()
    algorithm = federation.scenario.algorithm.in_round(round_, federation.scenario.rounds, session.losses)
    update, memory = algorithm.conclude(aggregate.to(params.dtype), params, session.memory, took_part / clients)
    session.memory = memory
    server.step(algorithm.whole(update, federation.layout))


def release(session: Session, sums: Collected, round_: int) -> Tensor | None:
    """The round's aggregated report: noised, over the public expected weight, where the server noises; else the mean.

    Aggregators that need every report get those that are finite; None if these are too few.
    """
    federation, total = session.federation, sums.updates
    plan = federation.plan.client
    if session.waiting is not None:
        return release_arrived(session, session.waiting, session.waiting.turn(round_))
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


def finish_round(session: Session, outing: Outing, answered: int, started: float) -> None:
    """Evaluate, write the record's line, save the checkpoint, and tell whoever watches."""
    federation, progress, round_ = session.federation, session.progress, outing.round
    evaluation = federation.scenario.evaluation
    due = round_ % evaluation.every == 0 or round_ == federation.scenario.rounds
    if due:
        session.metrics = evaluate(federation, session.server.params) | personal_metrics(session, round_)
        loss = session.metrics["loss"]
        session.losses += [loss] if not math.isnan(loss) else []
        better = session.metrics["loss"] < progress.best_loss
        progress.best_loss = min(progress.best_loss, session.metrics["loss"])
        progress.stale_evaluations = 0 if better else progress.stale_evaluations + 1
    dropped = count_deliveries(session, outing, answered)
    spent = {plan.unit: session.ledger.spent(plan.unit, plan.deltas) for plan in federation.plan.units}
    seconds = time.perf_counter() - started
    row = {
        "round": round_,
        "seconds": round(seconds, 6),
        **({"simulated_seconds": outing.clock} if outing.clock is not None else {}),
        "cohort": len(outing.asked),
        "dropped": dropped,
        **staleness(outing),
        **{name: session.metrics[name] if due else None for name in metric_names(federation)},
        "bytes_up": outing.uploads(answered) * federation.bytes_up,
        "bytes_down": outing.downloads * federation.bytes_down,
        "epsilon_example": spent.get("example"),
        "epsilon_client": spent.get("client"),
        **{f"clip_norm_{plan.unit}": session.clip_norms[plan.unit] for plan in federation.plan.units if adaptive(plan)},
    }
    progress.round = round_
    progress.left_out += session.left_out
    progress.ledger_position = session.ledger.position
    progress.seconds += seconds
    progress.clock = outing.clock or 0.0
    session.directory.append_round(row, progress)
    session.directory.append_cohort(outing.asked, progress)
    if session.store is not None:
        session.store.keep(round_)
    session.directory.save_checkpoint(session.state(), progress)
    session.on_round(row)


def named_parameters(federation: Federation, params: Tensor) -> dict[str, Tensor]:
    """The whole model as named tensors: the flat parameters, and what is frozen."""
    return whole_model(federation.module, params)
