"""Public root records, on which the server trains an update of its own to compare the clients' with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.algorithms import Given
from fedsim.messages import TrainJob
from fedsim.population import Population
from fedsim.privacy.keystream import Keystream
from fedsim.seeding import Stream
from fedsim.training.work import Held, Work, epoch_batches

if TYPE_CHECKING:
    from fedsim.federation import Federation


def root_update(federation: Federation, root: Population, job: TrainJob) -> Float[Tensor, " report"]:
    """What one client that holds the root records would report, without privacy: they are public.

    It trains as the clients do in this round, with random words of its own: those of the client after the last.
    """
    algorithm, device = federation.scenario.algorithm, federation.device
    algorithm = replace(algorithm, local=replace(algorithm.local, learning_rate=job.learning_rate))
    params, memory = (torch.from_numpy(array).to(device) for array in (job.params, job.memory))
    given = Given(params, memory, torch.zeros(1, 0, device=device), federation.start, federation.layout)
    return algorithm.train(federation.trainer, given, root_work(federation, root, job)).updates[0].clone()


def root_work(federation: Federation, root: Population, job: TrainJob) -> Work:
    """The batches of the root records, in reshuffled passes."""
    local, scenario = federation.scenario.algorithm.local, federation.scenario
    keystream = Keystream.of(scenario.privacy.randomness, scenario.draw_seed, job.round)
    clients, sizes = np.array([len(federation.population)]), root.sizes
    steps = local.epochs * -(-sizes // local.batch_size) if local.steps is None else np.array([local.steps])
    held = Held(root.indices, root.offsets[:1], sizes)
    records, lengths = epoch_batches(
        held, local.batch_size, steps, lambda counts: federation.trainer.words(keystream, Stream.ROOT, clients, counts)
    )
    return Work(clients, records, lengths, keystream, local.batch_size, held=held)
