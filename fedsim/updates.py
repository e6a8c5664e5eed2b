"""The way of a block's updates from training to the server: noised if privacy is local, compressed, and added up."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedsim.aggregation import WeightedSum
from fedsim.algorithms import Given
from fedsim.attacking import tamper
from fedsim.client_store import CarriedRows, ClientStore
from fedsim.communication import carry
from fedsim.federation import Federation
from fedsim.messages import Rows, TrainJob
from fedsim.population.population import Indices
from fedsim.privacy.clipping import centred_count, clip_factors, clip_rows, row_norms, scale_rows
from fedsim.privacy.events import Event
from fedsim.training.trainer import Trained
from fedsim.training.work import Work

# Updates are noised so many values at a time: noise is drawn in float64 and would be larger than the updates.
NOISED_VALUES = 1 << 22
# Longer vectors have no squared length in float32: no training that did not diverge makes them.
LONGEST = math.sqrt(float(np.finfo(np.float32).max))

Store = ClientStore | CarriedRows


@dataclass
class BlockReply:
    """What blocks' clients answer: reports added up or one by one, invalid ones, events, and centred counts.

    The counts of gradients, which are noised, are those of each client and step: added up in any order but this one,
    they would round otherwise.
    """

    updates: WeightedSum
    rows: list[Rows] = field(default_factory=list)
    invalid: int = 0
    spent: Counter[Event] = field(default_factory=Counter)
    gradients_unclipped: list[Tensor] = field(default_factory=list)
    updates_unclipped: float = 0.0

    def add(self, other: BlockReply) -> None:
        """Add another block's."""
        self.updates.add_sum(other.updates.total, other.updates.weight, other.updates.clients)
        self.rows += other.rows
        self.invalid += other.invalid
        self.spent.update(other.spent)
        self.gradients_unclipped += other.gradients_unclipped
        self.updates_unclipped += other.updates_unclipped


def train_one_block(
    federation: Federation, job: TrainJob, work: Work, store: Store | None, total: Tensor | None = None
) -> BlockReply:
    """Train a block of clients; their reports are clipped, noised if privacy is local, and added up or kept.

    They are added to ``total`` where one is given.
    """
    clip_norm = job.clip_norms.get("client", federation.scenario.algorithm.aggregation.bound)
    kept = store.read(work.clients) if store is not None else np.zeros((len(work.clients), 0), np.float32)
    trained = _train(federation, job, work, kept)
    tamper(federation, work, trained.updates)
    reply = BlockReply(WeightedSum(federation.sum_size, federation.device, total))
    # What is compressed is noised already where privacy is local, and is clipped afterwards where the server noises.
    local = federation.plan.client is not None and federation.plan.client.placement == "client"
    own_norms = _noise_each(federation, clip_norm, work, trained) if local else None
    _send(federation, work, trained.updates, kept)
    reports, weights, bound = trained.updates, client_weights(federation, work.clients), np.inf if local else clip_norm
    if federation.stacks:
        norms = row_norms(reports)
        reports = scale_rows(reports, clip_factors(norms, bound), torch.ones_like(norms))
    else:
        norms = federation.trainer.add_clipped(reply.updates.total, reports, bound, weights)
    norms = norms if own_norms is None else own_norms
    valid = torch.isfinite(norms)
    reply.updates.weight, reply.updates.clients = float(weights.sum()), len(work.clients)
    if federation.stacks:
        sound = row_norms(reports) <= LONGEST
        reply.rows.append(_rows(work.clients, weights, reports, sound))
        valid &= sound
    reply.invalid, reply.spent = int((~valid).sum()), trained.spent
    reply.gradients_unclipped, reply.updates_unclipped = trained.counts, centred_count(norms, clip_norm)
    if store is not None:  # last: where memory runs out before, these clients train again from what they kept
        store.write(job.round, work.clients, kept)
    return reply


def _train(federation: Federation, job: TrainJob, work: Work, kept: NDArray[np.float32]) -> Trained:
    """The block's reports; the algorithm's part of what its clients keep is replaced."""
    algorithm, device = federation.scenario.algorithm, federation.device
    algorithm = replace(algorithm, local=replace(algorithm.local, learning_rate=job.learning_rate))
    own = kept[:, : algorithm.state_size(federation.layout)]
    params, memory, state = (torch.from_numpy(array).to(device) for array in (job.params, job.memory, own))
    if not algorithm.sends_model:
        params = federation.start
    trained = algorithm.train(
        federation.trainer, Given(params, memory, state, federation.start, federation.layout), work
    )
    if trained.state is not None:
        after = trained.state.cpu().numpy()
        # A client whose training diverged keeps what it had: NaN would stay with it for ever.
        with np.errstate(over="ignore"):
            sound = np.linalg.norm(after, axis=1) <= LONGEST
        own[sound] = after[sound]
    return trained


def _send(federation: Federation, work: Work, reports: Tensor, kept: NDArray[np.float32]) -> None:
    """Replace reports by what arrives of them, and the channel's part of what clients keep by what was lost."""
    channel = federation.channel
    own = kept[:, kept.shape[1] - channel.state_size :]
    lost = torch.from_numpy(own).to(reports.device)
    carry(channel, (reports, lost), work.clients, federation.trainer, work.keystream)
    own[:] = lost.cpu().numpy()


def _rows(clients: Indices, weights: Tensor, reports: Tensor, sound: Tensor) -> Rows:
    """Copies of the sound reports: the trainer uses the memory of its updates again."""
    chosen: NDArray[np.bool_] = sound.cpu().numpy()
    return Rows(clients[chosen], weights.cpu().numpy()[chosen], reports.cpu().numpy()[chosen])


def _noise_each(federation: Federation, clip_norm: float, work: Work, trained: Trained) -> Tensor:
    """Local DP: put every client's own clipped and noised report in its place; returns the norms before ``[clients]``.

    The noise is noted in ``trained``.
    """
    plan, reports = federation.plan.client, trained.updates
    assert plan is not None
    norms = []
    for rows in torch.arange(len(reports)).split(max(1, NOISED_VALUES // reports.shape[1])):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        clipped, own = clip_rows(reports[part], clip_norm)
        mechanisms = plan.mechanisms(work.clients[part], clip_norm, work.keystream)
        released = mechanisms.release(clipped, torch.zeros_like(own), 0, federation.trainer.normals)
        reports[part] = released.totals
        trained.spent.update(released.spent)
        norms.append(own)
    return torch.cat(norms)


def client_weights(federation: Federation, clients: Indices) -> Tensor:
    """Aggregation weights ``[clients]``; under client-level privacy they are at most 1, whatever a client holds."""
    sizes = torch.from_numpy(federation.population.sizes[clients].astype(np.float64))
    if federation.weighting == "uniform":
        weights = torch.ones_like(sizes)
    elif federation.scenario.algorithm.weight_cap is not None:
        weights = (sizes / federation.scenario.algorithm.weight_cap).clamp(max=1.0)
    else:
        weights = sizes
    return weights.to(federation.device)
