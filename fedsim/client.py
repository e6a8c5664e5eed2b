"""The client side: a Flower ``ClientApp`` that hosts a block of clients and answers with the sum of their reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from fedsim.aggregation import WeightedSum
from fedsim.algorithms import LocalTraining
from fedsim.attacking import apart
from fedsim.client_store import CarriedRows
from fedsim.errors import BadInput
from fedsim.federation import Federation, build_federation
from fedsim.job_checks import check_job
from fedsim.loading import parse_scenario
from fedsim.messages import TrainJob, TrainReply, join_rows, pack_reply, unpack_job
from fedsim.population.population import Indices
from fedsim.privacy.clip_settings import PerLayerClip
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.plan import adaptive
from fedsim.seeding import Stream
from fedsim.training.work import Held, Work, epoch_batches, poisson_batches
from fedsim.updates import BlockReply, Store, client_weights, train_one_block

app = ClientApp()


class Hosted(NamedTuple):
    """What this process's clients work on, and where they keep what they remember, if they do."""

    federation: Federation
    store: Store | None


# By digest of the scenario that this process works on. Engines in the same process put theirs here, so that nothing is
# loaded twice; elsewhere it is built from the job on first use.
_hosted: dict[str, Hosted] = {}


def host(federation: Federation, store: Store | None = None) -> None:
    """Let this process's clients use a federation that is already built, and forget the one before."""
    _hosted.clear()
    _hosted[federation.scenario.digest] = Hosted(federation, store)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Flower's entry: unpack the job, train its clients, pack the sum."""
    job = unpack_job(message)
    federation, store = _host_of(job)
    return pack_reply(train_clients(federation, job, store), message)


def _host_of(job: TrainJob) -> Hosted:
    if job.digest not in _hosted:
        scenario = parse_scenario(job.scenario, "scenario")
        if scenario.digest != job.digest:
            raise BadInput(f"The job's scenario has digest {scenario.digest}, not {job.digest} as it claims.")
        host(build_federation(scenario))
    return _hosted[job.digest]


def train_clients(federation: Federation, job: TrainJob, store: Store | None = None) -> TrainReply:
    """Train the job's clients block by block; reports are clipped, noised if local, weighted and summed as they come.

    A report that is NaN or infinite counts as zero and as ``invalid``. Raises ``MalformedMessage`` before anything is
    computed where the job is not one of this federation's.
    """
    check_job(federation, job)
    carried = CarriedRows(job.clients, job.state) if job.state.size else None
    store = carried or store
    if federation.state_size and store is None:
        raise BadInput(
            "algorithm or communication: clients keep something from round to round, which this engine cannot."
        )
    keystream = Keystream.of(federation.plan.randomness, federation.scenario.draw_seed, job.round)
    sums = BlockReply(WeightedSum(federation.sum_size, federation.device))
    # Blocks that train one after the other add to one sum, so that where they are cut does not show in its rounding.
    shared = sums.updates.total if federation.trainer.parallel_blocks == 1 else None

    def train(block: Indices) -> BlockReply:
        total = shared.clone() if shared is not None else None
        reply = train_one_block(federation, job, block_work(federation, job, block, keystream), store, total)
        if shared is not None:  # last: where memory runs out before, nothing was added, and these train again
            reply.updates.total = shared.copy_(reply.updates.total)
        return reply

    def within_memory(block: Indices) -> BlockReply:
        return federation.trainer.halving.run(train, block, divisible=not apart(federation, block)[1])

    for part in _side_by_side(federation, within_memory, blocks(federation, job.clients)):
        sums.add(part)
    if federation.plan.client is not None and not federation.plan.trusts_the_server:
        sums.invalid = 0  # local privacy covers the update alone: whether it was NaN stays with the client
    total, weight = sums.updates, float(client_weights(federation, np.sort(job.clients)).sum())
    gradients = math.fsum(torch.cat(sums.gradients_unclipped).tolist()) if sums.gradients_unclipped else 0.0
    counts = (gradients, sums.updates_unclipped if adaptive(federation.plan.client) else 0.0)
    whole = join_rows(sums.rows) if federation.stacks else None
    values = total.total.cpu().numpy()
    state = carried.rows if carried else None
    return TrainReply(values, weight, total.clients, sums.invalid, sums.spent, *counts, rows=whole, state=state)


def _side_by_side(
    federation: Federation, train: Callable[[Indices], BlockReply], parts: list[Indices]
) -> Iterator[BlockReply]:
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
    again = second_pass(federation, clients, keystream)

    def draw(counts: Indices) -> NDArray[np.uint64]:
        return federation.trainer.words(keystream, Stream.BATCHES, clients, counts)

    if plan is None:
        records, lengths = epoch_batches(held, local.batch_size, steps, draw)
        return Work(clients, records, lengths, keystream, local.batch_size, again=again, held=held)
    records, lengths = poisson_batches(held, plan.rates[clients], steps, draw)
    noise = plan.mechanisms(clients, job.clip_norms["example"], keystream)
    per_layer = isinstance(plan.clipping, PerLayerClip)
    return Work(clients, records, lengths, keystream, local.batch_size, noise, per_layer, again, held)


def second_pass(federation: Federation, clients: Indices, keystream: Keystream) -> Callable[[LocalTraining], Work]:
    """Draws what clients train for themselves alone: other batches of their records, from words of their own."""
    population, own = federation.population, keystream.apart(Stream.PERSONAL)

    def again(local: LocalTraining) -> Work:
        steps = plain_steps(local, population.sizes[clients])
        chosen = clients[order := np.argsort(-steps, kind="stable")]
        held = Held(population.indices, population.offsets[chosen], population.sizes[chosen])

        def draw(counts: Indices) -> NDArray[np.uint64]:
            return federation.trainer.words(own, Stream.PERSONAL, chosen, counts)

        return Work(chosen, *epoch_batches(held, local.batch_size, steps[order], draw), own, local.batch_size)

    return again


def local_steps(federation: Federation, clients: Indices, sizes: Indices) -> Indices:
    """Number of local steps of each client in a round ``[clients]``."""
    local, plan = federation.scenario.algorithm.local, federation.plan.example
    if plan is not None:
        return plan.steps[clients]
    if federation.scenario.algorithm.one_step:
        return np.full(len(clients), local.steps or 1, np.int64)
    return plain_steps(local, sizes)


def plain_steps(local: LocalTraining, sizes: Indices) -> Indices:
    """Number of steps without privacy of clients that hold so many records ``[clients]``."""
    if local.steps is not None:
        return np.full(len(sizes), local.steps, np.int64)
    return local.epochs * -(-sizes // local.batch_size)


def blocks(federation: Federation, clients: Indices) -> list[Indices]:
    """Slices of the cohort as the trainer wants them, that fit the memory budget together.

    Clients of like size stay together, so that little is padded. The order that they are asked in does not show.
    """
    if len(clients) == 0:
        return []
    clients = np.sort(clients)
    local, trainer = federation.scenario.algorithm.local, federation.trainer
    threads = min(federation.workers, trainer.parallel_blocks)
    private = federation.plan.example is not None
    beyond = 4 * 2 * (2 * max(0, federation.report_size - federation.layout.size) + federation.state_size)
    per_client = trainer.bytes_per_client(local.batch_size, private) + beyond
    fitting = int(federation.scenario.engine.memory_gib * 2**30 / per_client / threads)
    length = max(1, min(fitting, trainer.block_length(len(clients), threads, local.batch_size, private)))
    length = trainer.halving.length(length)
    clients, whole = apart(federation, clients)
    by_size = clients[np.argsort(-federation.population.sizes[clients], kind="stable")]
    return whole + [by_size[start : start + length] for start in range(0, len(by_size), length)]
