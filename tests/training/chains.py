"""What the tests of the vectorised trainer share: small models, tasks and work without a federation."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedsim.data.dataset import Dataset, Examples
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.privacy.mechanism import GaussianSums
from fedsim.seeding import Stream
from fedsim.tasks import Classification, Task
from fedsim.training.work import Work

CLASSES = 5


def make_task(shape, records=60, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((records, *shape)).astype(np.float32)
    examples = Examples(features, rng.integers(0, CLASSES, records))
    return Task.of(Classification(), Dataset(examples, examples, tuple("abcde")), torch.device("cpu"))


def seeded(module, seed=0):
    """Every parameter random, also those that start as zeros or ones."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng) / max(1, parameter[0].numel()) ** 0.5)
    return module


def built(*layers):
    with torch.random.fork_rng(devices=[]):
        return seeded(nn.Sequential(*(layer() for layer in layers)))


def start_of(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()])


def make_work(lengths, noise_multiplier=None, clip_norm=0.3, per_layer=False, count_noise=None, records=60):
    """Work of clients who share no records; ``lengths`` of each client's steps, longest first."""
    steps = max(len(own) for own in lengths)
    table = np.array([own + [-1] * (steps - len(own)) for own in lengths])
    clients = np.arange(len(lengths), dtype=np.int64) * 3 + 1
    chosen = np.random.default_rng(5).permutation(records)[: np.maximum(table, 0).sum()]
    keystream, noise = Keystream.of("reproducible", 4, 2), None
    if noise_multiplier is not None:
        events = (Event(noise_multiplier), Event(2 * noise_multiplier))
        kinds = np.arange(len(lengths)) % 2
        noise = GaussianSums(clients, events, kinds, clip_norm, count_noise, keystream, Stream.NOISE)
    return Work(clients, chosen, table, keystream, 4, noise, per_layer)
