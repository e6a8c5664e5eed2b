"""The client side: a Flower ``ClientApp`` that hosts a block of clients and answers with the sum of their updates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor

from fedsim.aggregation import WeightedSum
from fedsim.errors import BadInput
from fedsim.federation import Federation, build_federation
from fedsim.loading import parse_scenario
from fedsim.messages import MalformedMessage, TrainJob, TrainReply, pack_reply, unpack_job
from fedsim.population.population import Indices
from fedsim.privacy.clip_settings import PerLayerClip
from fedsim.privacy.clipping import clip_rows
from fedsim.privacy.plan import adaptive
from fedsim.seeding import Stream, generator, private_generator
from fedsim.training import train_block
from fedsim.training.work import ClientWork, epoch_batches, poisson_batches

app = ClientApp()

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
    start, gradients = torch.from_numpy(job.params).to(federation.device), federation.gradients
    total, invalid, unclipped = WeightedSum(start.numel(), federation.device), 0, 0.0
    gradients.released.clear()
    gradients.counted = 0.0
    for block in _blocks(federation, job.clients):
        works = [client_work(federation, job, int(client)) for client in block]
        updates = train_block(gradients, federation.scenario.algorithm, start, works)
        clipped = clip_rows(updates, job.clip_norms.get("client", float("inf")))
        _noise_locally(federation, job, block, clipped.rows)
        total.add(clipped.rows, _weights(federation, block))
        invalid, unclipped = invalid + clipped.invalid, unclipped + clipped.count
    counts = (gradients.counted, unclipped if adaptive(federation.plan.client) else 0.0)
    if federation.plan.client is not None and not federation.plan.trusts_the_server:
        invalid = 0  # local privacy covers the update alone: whether it was NaN stays with the client
    released = gradients.released.copy()
    return TrainReply(total.total.cpu().numpy(), total.weight, total.clients, invalid, released, *counts)


def client_work(federation: Federation, job: TrainJob, client: int) -> ClientWork:
    """Draw everything random about one client's round, from its own streams."""
    scenario, records = federation.scenario, federation.population.records(client)
    local, plan = scenario.algorithm.local, federation.plan.example
    coordinates = (scenario.seed, job.round, client)
    if plan is None:
        steps = local.steps or local.epochs * -(-len(records) // local.batch_size)
        rng = generator(scenario.seed, Stream.BATCHES, job.round, client)
        batches = epoch_batches(records, local.batch_size, steps, rng)
    else:
        private = private_generator(federation.plan.randomness, Stream.BATCHES, *coordinates)
        batches = poisson_batches(records, plan.rates[client], int(plan.steps[client]), private)
    return ClientWork(
        client=client,
        batches=batches,
        mechanism=plan.mechanism(client, job.clip_norms["example"]) if plan else None,
        denominator=local.batch_size,
        noise=private_generator(federation.plan.randomness, Stream.NOISE, *coordinates),
        dropout=private_generator(federation.plan.randomness, Stream.DROPOUT, *coordinates),
        per_layer=plan is not None and isinstance(plan.clipping, PerLayerClip),
    )


def _noise_locally(federation: Federation, job: TrainJob, clients: Indices, updates: Tensor) -> None:
    """Local DP: noise every client's own clipped update ``[clients, params]`` in place."""
    plan = federation.plan.client
    if plan is None or plan.placement != "client":
        return
    mechanism = plan.mechanism(job.clip_norms["client"])
    for row, client in enumerate(clients):
        coordinates = (federation.scenario.seed, job.round, int(client))
        rng = private_generator(federation.plan.randomness, Stream.LOCAL_NOISE, *coordinates)
        release = mechanism.release(updates[row], rng)
        updates[row] = release.total
        federation.gradients.note(release)


def _blocks(federation: Federation, clients: Indices) -> Iterator[Indices]:
    """Slices of the cohort that fit the memory budget, clients of like size together so that little is padded."""
    local = federation.scenario.algorithm.local
    per_client = federation.gradients.bytes_per_client(local.batch_size, federation.plan.example is not None)
    length = max(1, int(federation.scenario.engine.memory_gib * 2**30 / per_client))
    by_size = clients[np.argsort(-federation.population.sizes[clients], kind="stable")]
    for start in range(0, len(by_size), length):
        yield by_size[start : start + length]


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
