"""Shared by all tests: one thread for torch, small federations, and the guard that no global generator is touched."""

from __future__ import annotations

import contextlib
import copy
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fedsim.algorithms import ALGORITHMS, Algorithm, Given, LocalProblem, LocalTraining
from fedsim.client import block_work
from fedsim.federation import Federation, build_federation
from fedsim.loading import parse_scenario
from fedsim.messages import TrainJob
from fedsim.native.build import NoNative, library
from fedsim.params import Layout
from fedsim.privacy.cache import cache_folder
from fedsim.privacy.clip_settings import PerLayerClip
from fedsim.privacy.events import Event
from fedsim.privacy.keystream import Keystream
from fedsim.training import TRAINERS, Trainer
from fedsim.training.native import obstacle
from fedsim.training.trainer import Trained
from fedsim.training.work import Work

# Where tests are started in the background, Ctrl-C is ignored, by what they start too; some of them send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SMALL = """
seed = 3
rounds = 3
[data]
source = "digits"
[population]
clients = 6
partition = { kind = "dirichlet", alpha = 0.5, min_size = 3 }
[model]
name = "mlp"
hidden = [8]
[algorithm]
name = "fedavg"
local = { batch_size = 64, learning_rate = 0.2 }
"""
EXAMPLE_PRIVACY = """
[privacy.example]
clip_norm = 0.7
noise_multiplier = 1.1
delta = 1e-4
"""
CLIENT_PRIVACY = """
[privacy.client]
clip_norm = 0.4
noise_multiplier = 1.2
delta = 1e-2
"""

# Settings without which an algorithm cannot run.
NEEDED = {"fedbn": ('model={name="cnn", convolutions=[{channels=4}], hidden=[8], normalisation="group"}',)}


def settings_of(algorithm: str) -> list[str]:
    """Overrides for a small run of an algorithm by name."""
    own = ["evaluation.test={kind='per_client'}"] if ALGORITHMS[algorithm].personalises else []
    return [f"algorithm.name={algorithm}", *own, *NEEDED.get(algorithm, ())]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The suite never reads or fills the user's cache of calibrations; the native library is compiled once."""
    folder, compiled = tmp_path_factory.mktemp("cache"), cache_folder()
    with contextlib.suppress(NoNative):
        library()
    for file in compiled.glob("native-*.so") if compiled else ():
        shutil.copy(file, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDSIM_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_global_randomness() -> Iterator[None]:
    """Fails a test in which anything draws from a global generator of torch or NumPy.

    Python's own is not watched, because the checker of array shapes (beartype) draws from it; that fedsim does not use
    it is seen in tests/test_seeding.py.
    """
    before = (torch.get_rng_state(), np.random.get_state()[1].tobytes())  # noqa: NPY002
    yield
    assert torch.equal(torch.get_rng_state(), before[0]), "torch's global generator was used"
    assert np.random.get_state()[1].tobytes() == before[1], "NumPy's global generator was used"  # noqa: NPY002


def job_of(federation: Federation, clients: Iterable[int] | None = None, round_: int = 2) -> TrainJob:
    """A round's job for some clients (all of them by default), from the start's parameters."""
    ids = np.arange(len(federation.population)) if clients is None else np.array(list(clients), np.int64)
    start, norms = federation.start.numpy()[: federation.sent_model_size], federation.plan.clip_norms()
    rate = federation.scenario.algorithm.local.learning_rate
    return TrainJob(round_, "", federation.scenario.digest, ids, start, rate, norms)


def work_of(federation: Federation, clients: Iterable[int] | None = None, round_: int = 2) -> Work:
    """What some clients (all of them by default) do in a round, as one block; ``work.clients`` are its rows."""
    job = job_of(federation, clients, round_)
    keystream = Keystream.of(federation.plan.randomness, federation.scenario.seed, round_)
    return block_work(federation, job, job.clients, keystream)


def why_not(federation: Federation, trainer: str) -> str | None:
    """Why a trainer cannot train a federation on this machine, or None."""
    if trainer != "native":
        return None
    example, algorithm = federation.scenario.privacy.example, federation.scenario.algorithm
    per_layer = example is not None and isinstance(example.clipping, PerLayerClip)
    return obstacle(federation.module, federation.task, algorithm, per_layer)


def trainer_of(federation: Federation, trainer: str) -> Trainer:
    """A trainer by name with a copy of the federation's model; skips the test where it cannot train it."""
    reason = why_not(federation, trainer)
    if reason is not None:
        pytest.skip(f"{trainer}: {reason}")
    return TRAINERS[trainer](copy.deepcopy(federation.module), federation.task)


def local_problem(algorithm: Algorithm, start: Tensor) -> tuple[LocalTraining, LocalProblem]:
    """How the algorithm's clients train from ``start`` in their first round, and what they minimise."""
    layout = Layout(("all",), ((len(start),),))
    nothing = [torch.zeros(size(layout)) for size in (algorithm.memory_size, algorithm.state_size)]
    return algorithm.local, algorithm.problem(Given(start, *nothing, start, layout))


def batches_of(work: Work, client: int) -> list[np.ndarray]:
    """The batches of one client of a block."""
    row = work.clients.tolist().index(client)
    return [work.batch(row, step) for step in range(int(work.steps[row]))]


def unclipped(trained: Trained) -> float:
    """The sum of the noised centred counts."""
    return float(torch.cat(trained.counts).sum()) if trained.counts else 0.0


def without_noise(work: Work) -> Work:
    """The same clipping, but what is released is the clipped sum itself."""
    assert work.noise is not None
    kinds = np.zeros(len(work.clients), np.int64)
    return replace(work, noise=replace(work.noise, events=(Event(0.0),), kinds=kinds))


@pytest.fixture
def federation() -> Callable[..., Federation]:
    """Builds a small federation: ``federation("rounds=2", text=SMALL + EXAMPLE_PRIVACY)``."""

    def build(*overrides: str, text: str = SMALL) -> Federation:
        return build_federation(parse_scenario(text, "small", overrides))

    return build
