"""The client side: a Flower ``ClientApp`` that hosts a block of clients and answers with the sum of their updates."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from fedsim.aggregation import WeightedSum
from fedsim.attacking import apart, tamper
from fedsim.errors import BadInput
from fedsim.federation import Federation, build_federation
from fedsim.loading import parse_scenario
from fedsim.messages import MalformedMessage, TrainJob, TrainReply, pack_reply, unpack_job
from fedsim.population.population import Indices
from fedsim.privacy.clip_settings import PerLayerClip
from fedsim.privacy.clipping import centred_count, clip_rows
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.plan import adaptive
from fedsim.seeding import Stream
from fedsim.training.trainer import Trained
from fedsim.training.work import Held, Work, epoch_batches, poisson_batches

app = ClientApp()

# Updates are noised so many values at a time: noise is drawn in float64 and would be larger than the updates.
NOISED_VALUES = 1 << 22

# The federation of the scenario that this process works on, by digest. Engines in the same process put theirs here,
# so that nothing is loaded twice; elsewhere it is built from the job on first use.
_federations: dict[str, Federation] = {}


def host(federation: Federation) -> None:
    """Let this process's clients use a federation that is already built, and forget the one before."""
    _federations.clear()
    _federations[federation.scenario.digest] = federation


@app.train()
def train(message: Message, context: Context) -> Message:
    """Flower's entry: unpack the job, train its clients, pack the sum."""
    job = unpack_job(message)
    return pack_reply(train_clients(_federation(job), job), message)


def _federation(job: TrainJob) -> Federation:
    if job.digest not in _federations:
        scenario = parse_scenario(job.scenario, "scenario")
        if scenario.digest != job.digest:
            raise BadInput(f"The job's scenario has digest {scenario.digest}, not {job.digest} as it claims.")
        host(build_federation(scenario))
    return _federations[job.digest]


def train_clients(federation: Federation, job: TrainJob) -> TrainReply:
    """Train the job's clients block by block; updates are clipped, noised if local, weighted and summed as they come.

    An update that is NaN or infinite counts as zero and as ``invalid``.
    """
    if len(job.params) != federation.start.numel() or (job.clients >= len(federation.population)).any():
        raise MalformedMessage("the job's parameters or client ids do not belong to this scenario")
    start = torch.from_numpy(job.params).to(federation.device)
    keystream = Keystream.of(federation.plan.randomness, federation.scenario.draw_seed, job.round)
    sums = BlockSums(WeightedSum(start.numel(), federation.device))

    def train(block: Indices) -> BlockSums:
        return train_one_block(federation, job, start, block_work(federation, job, block, keystream))

    for part in _side_by_side(federation, train, blocks(federation, job.clients)):
        sums.add(part)
    if federation.plan.client is not None and not federation.plan.trusts_the_server:
        sums.invalid = 0  # local privacy covers the update alone: whether it was NaN stays with the client
    total = sums.updates
    counts = (sums.gradients_unclipped, sums.updates_unclipped if adaptive(federation.plan.client) else 0.0)
    return TrainReply(total.total.cpu().numpy(), total.weight, total.clients, sums.invalid, sums.spent, *counts)


@dataclass
class BlockSums:
    """What a block's clients answer, added up: updates, NaN or infinite ones, events, and centred counts."""

    updates: WeightedSum
    invalid: int = 0
    spent: Counter[Event] = field(default_factory=Counter)
    gradients_unclipped: float = 0.0
    updates_unclipped: float = 0.0

    def add(self, other: BlockSums) -> None:
        """Add another block's."""
        self.updates.add_sum(other.updates.total, other.updates.weight, other.updates.clients)
        self.invalid += other.invalid
        self.spent.update(other.spent)
        self.gradients_unclipped += other.gradients_unclipped
        self.updates_unclipped += other.updates_unclipped


def train_one_block(federation: Federation, job: TrainJob, start: Tensor, work: Work) -> BlockSums:
    """Train a block of clients, clip their updates, noise them if privacy is local, and add them up."""
    trainer, clip_norm = federation.trainer, job.clip_norms.get("client", math.inf)
    algorithm = federation.scenario.algorithm
    algorithm = replace(algorithm, local=replace(algorithm.local, learning_rate=job.learning_rate))
    trained = trainer.train(algorithm, start, work)
    tamper(federation, work, trained.updates)
    weights, total = _weights(federation, work.clients), torch.zeros_like(start, dtype=torch.float64)
    if federation.plan.client is not None and federation.plan.client.placement == "client":
        norms = _add_noised(federation, clip_norm, work, trained, (weights, total))
    else:
        norms = trainer.add_clipped(total, trained.updates, clip_norm, weights)
    updates = WeightedSum(start.numel(), federation.device)
    updates.add_sum(total, float(weights.sum()), len(work.clients))
    invalid = int((~torch.isfinite(norms)).sum())
    return BlockSums(updates, invalid, trained.spent, trained.unclipped, centred_count(norms, clip_norm))


def _side_by_side(
    federation: Federation, train: Callable[[Indices], BlockSums], parts: list[Indices]
) -> Iterator[BlockSums]:
    """The blocks' sums in their order, as many at once as the trainer can and the scenario allows.

    Blocks that may run side by side have one thread each, also where there is only one: threads that share every small
    operation wait for each other, and for long where another program wants a core.
    """
    if federation.trainer.parallel_blocks == 1:
        return map(train, parts)
    return _pool(min(federation.workers, federation.trainer.parallel_blocks)).map(train, parts)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "fedsim", initializer=torch.set_num_threads, initargs=(1,))


def block_work(federation: Federation, job: TrainJob, clients: Indices, keystream: Keystream) -> Work:
    """Draw everything random about some clients' round, each from its own words."""
    local, plan, population = federation.scenario.algorithm.local, federation.plan.example, federation.population
    sizes = population.sizes[clients]
    steps = local_steps(federation, clients, sizes)
    order = np.argsort(-steps, kind="stable")
    clients, sizes, steps = clients[order], sizes[order], steps[order]
    held = Held(population.indices, population.offsets[clients], sizes)

    def draw(counts: Indices) -> NDArray[np.uint64]:
        return federation.trainer.words(keystream, Stream.BATCHES, clients, counts)

    if plan is None:
        records, lengths = epoch_batches(held, local.batch_size, steps, draw)
        return Work(clients, records, lengths, keystream, local.batch_size)
    records, lengths = poisson_batches(held, plan.rates[clients], steps, draw)
    noise = plan.mechanisms(clients, job.clip_norms["example"], keystream)
    per_layer = isinstance(plan.clipping, PerLayerClip)
    return Work(clients, records, lengths, keystream, local.batch_size, noise, per_layer)


def local_steps(federation: Federation, clients: Indices, sizes: Indices) -> Indices:
    """Number of local steps of each client in a round ``[clients]``."""
    local, plan = federation.scenario.algorithm.local, federation.plan.example
    if plan is not None:
        return plan.steps[clients]
    if local.steps is not None:
        return np.full(len(clients), local.steps, np.int64)
    return local.epochs * -(-sizes // local.batch_size)


def _add_noised(
    federation: Federation, clip_norm: float, work: Work, trained: Trained, sums: tuple[Tensor, Tensor]
) -> Tensor:
    """Local DP: add every client's own clipped and noised update times its weight to the total; returns the norms.

    ``sums`` are weights ``[clients]`` and total ``[params]``; the noise is noted in ``trained``.
    """
    plan, (weights, total) = federation.plan.client, sums
    assert plan is not None
    norms = []
    for rows in torch.arange(len(weights)).split(max(1, NOISED_VALUES // len(total))):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        clipped, own = clip_rows(trained.updates[part], clip_norm)
        mechanisms = plan.mechanisms(work.clients[part], clip_norm, work.keystream)
        released = mechanisms.release(clipped, torch.zeros_like(own), 0, federation.trainer.normals)
        total += weights[part] @ released.totals.double()
        trained.spent.update(released.spent)
        norms.append(own)
    return torch.cat(norms)


def blocks(federation: Federation, clients: Indices) -> list[Indices]:
    """Slices of the cohort as the trainer wants them, that fit the memory budget together.

    Clients of like size stay together, so that little is padded.
    """
    if len(clients) == 0:
        return []
    local, trainer = federation.scenario.algorithm.local, federation.trainer
    threads = min(federation.workers, trainer.parallel_blocks)
    private = federation.plan.example is not None
    per_client = trainer.bytes_per_client(local.batch_size, private)
    fitting = int(federation.scenario.engine.memory_gib * 2**30 / per_client / threads)
    length = max(1, min(fitting, trainer.block_length(len(clients), threads, local.batch_size, private)))
    clients, whole = apart(federation, clients)
    by_size = clients[np.argsort(-federation.population.sizes[clients], kind="stable")]
    return whole + [by_size[start : start + length] for start in range(0, len(by_size), length)]


def _weights(federation: Federation, clients: Indices) -> Tensor:
    """Aggregation weights ``[clients]``; under client-level privacy they are at most 1, whatever a client holds."""
    sizes = torch.from_numpy(federation.population.sizes[clients].astype(np.float64))
    if federation.weighting == "uniform":
        weights = torch.ones_like(sizes)
    elif federation.scenario.algorithm.weight_cap is not None:
        weights = (sizes / federation.scenario.algorithm.weight_cap).clamp(max=1.0)
    else:
        weights = sizes
    return weights.to(federation.device)
