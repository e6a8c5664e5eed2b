"""A round's messages: jobs to the nodes, and what comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from flwr.serverapp import Grid

from fedsim.attacking import spread
from fedsim.collecting import Collected, collect, remember
from fedsim.messages import TrainJob, pack_job
from fedsim.outings import Outing
from fedsim.privacy.sampling import Ids

if TYPE_CHECKING:
    from fedsim.server import Session


def exchange(session: Session, grid: Grid, outing: Outing) -> Collected:
    """Have a round's clients train, and collect the reports of those that answer."""
    jobs = make_jobs(session, grid, outing.round, outing.answering)
    store = session.store
    before = store.read(outing.forgetful) if store is not None else None
    sums = collect(session, jobs, grid.send_and_receive([pack_job(job, node) for node, job in jobs.items()]))
    if store is not None and before is not None and len(before):
        store.write(outing.round, outing.forgetful, before)
    if store is not None and len(outing.silent):
        unheard = make_jobs(session, grid, outing.round, outing.silent)
        # They train and remember it, but what they report does not arrive.
        messages = [pack_job(job, node) for node, job in unheard.items()]
        sums.rejected += remember(session, unheard, grid.send_and_receive(messages))
    if session.waiting is not None:
        session.waiting.add(outing.answering, sums.rows, session.server.params)
    return sums


def make_jobs(session: Session, grid: Grid, round_: int, cohort: Ids) -> dict[int, TrainJob]:
    """The cohort spread over the nodes, one job each; no node gets an empty one."""
    nodes, scenario = sorted(grid.get_node_ids()), session.federation.scenario
    params = session.server.params.detach()[: session.federation.sent_model_size].cpu().numpy().copy()
    memory = session.memory if scenario.algorithm.sends_memory else session.memory[:0]
    sent = memory.cpu().numpy().copy()
    text, store = scenario.to_toml(), session.store if session.sends_state else None
    rate = scenario.algorithm.local.learning_rate_at(round_, scenario.rounds, session.losses)
    common = (params, rate, dict(session.clip_norms), sent)
    homes = getattr(grid, "homes", None)  # an engine whose clients live at nodes of their own says where
    parts = homes(cohort) if homes else zip(nodes, spread(session.federation, cohort, max(1, len(nodes))), strict=False)
    nothing = np.zeros((0, 0), np.float32)
    return {
        node: TrainJob(round_, text, scenario.digest, part, *common, store.read(part) if store else nothing)
        for node, part in parts
        if len(part)
    }
