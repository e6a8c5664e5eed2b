"""The scenario: everything public about a run, as frozen dataclasses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from fedsim.algorithms import ALGORITHMS, Algorithm, FedAvg
from fedsim.asynchronous import ASYNCHRONOUS, Asynchronous
from fedsim.attacks import ATTACKS, Attack
from fedsim.communication import Communication
from fedsim.data import SOURCES, CustomData, DataSource, Digits
from fedsim.devices.settings import Devices
from fedsim.models import MODELS, Custom, Mlp, ModelSettings
from fedsim.population import PARTITIONS, Iid, Natural, Partition
from fedsim.population.held_out import TEST_DATA, SourceTest, TestData
from fedsim.privacy.clip_settings import CLIENT_CLIPPING, EXAMPLE_CLIPPING, Clipping, FixedClip
from fedsim.privacy.sampling import SAMPLINGS, All, CohortSampling
from fedsim.seeding import Stream, generator
from fedsim.settings import Count, NonNegative, Positive, choice, section
from fedsim.tasks import TASKS, Objective

if TYPE_CHECKING:
    DataChoice = DataSource
    PartitionChoice = Partition
    TaskChoice = Objective
    ModelChoice = ModelSettings
    AlgorithmChoice = Algorithm
    AttackChoice = Attack
    SamplingChoice = CohortSampling
    AsynchronousChoice = Asynchronous
    ExampleClippingChoice = Clipping
    ClientClippingChoice = Clipping
    TestDataChoice = TestData
else:
    DataChoice = choice("source", SOURCES, CustomData)
    PartitionChoice = choice("kind", PARTITIONS)
    TaskChoice = choice("kind", TASKS)
    ModelChoice = choice("name", MODELS, Custom)
    AlgorithmChoice = choice("name", ALGORITHMS)
    AttackChoice = choice("kind", ATTACKS)
    SamplingChoice = choice("kind", SAMPLINGS)
    AsynchronousChoice = choice("kind", ASYNCHRONOUS)
    ExampleClippingChoice = choice("kind", EXAMPLE_CLIPPING)
    ClientClippingChoice = choice("kind", CLIENT_CLIPPING)
    TestDataChoice = choice("kind", TEST_DATA)

Delta = Annotated[float, Field(gt=0, lt=1)]


@section
@dataclass(frozen=True, kw_only=True)
class PopulationSettings:
    """How many clients there are and who holds what.

    ``clients`` left out is 10, or with the ``natural`` partition every owner that the data names.
    """

    clients: Count | None = None
    partition: PartitionChoice = Iid()

    def __post_init__(self) -> None:
        if self.clients is None and not isinstance(self.partition, Natural):
            object.__setattr__(self, "clients", 10)


@section
@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Who takes part in a round."""

    sampling: SamplingChoice = All()


@section
@dataclass(frozen=True, kw_only=True)
class ExamplePrivacy:
    """Example-level privacy: DP-SGD in every client (Abadi et al. 2016, arXiv 1607.00133).

    ``sampling_rate`` is the public Poisson rate of a record in a step; left out, it is batch_size / n_i and n_i counts
    as public. ``target_epsilon`` calibrates each client's noise (or one ``noise`` common to all) and is that client's
    budget. ``delta`` is the same for all, or ``delta_times_n / n_i``.
    """

    clip_norm: Positive
    clipping: ExampleClippingChoice = FixedClip()
    noise_multiplier: NonNegative | None = None
    target_epsilon: Positive | None = None
    noise: Literal["per_client", "common"] = "per_client"
    delta: Delta | None = None
    delta_times_n: Delta | None = None
    sampling_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    budget: Positive | None = None


@section
@dataclass(frozen=True, kw_only=True)
class Projected:
    """A larger hypothetical deployment whose noise (per client) is simulated; its epsilon is labelled projected."""

    cohort: Count
    population: Count


@section
@dataclass(frozen=True, kw_only=True)
class ClientPrivacy:
    """Client-level privacy: clipped updates, noise at the server (McMahan et al. 2018, arXiv 1710.06963).

    ``placement = "client"`` is local DP: every client noises its own update. ``mechanism`` "banded" (with ``bands``) or
    "tree" correlates the server's noise over rounds and needs ``cohort.sampling.kind = "cyclic"``.
    """

    clip_norm: Positive
    clipping: ClientClippingChoice = FixedClip()
    placement: Literal["server", "client"] = "server"
    mechanism: Literal["gaussian", "banded", "tree"] = "gaussian"
    bands: Count | None = None
    relation: Literal["add-remove", "zero-out", "replace-one"] | None = None
    projected: Projected | None = None
    noise_multiplier: NonNegative | None = None
    target_epsilon: Positive | None = None
    delta: Delta
    budget: Positive | None = None


@section
@dataclass(frozen=True, kw_only=True)
class Privacy:
    """The units that are protected; both may be on in one run.

    ``randomness = "secure"`` draws noise, batches and cohorts from the operating system's entropy. ``ledger`` is a file
    shared by all runs on the same population, which then compose.
    """

    example: ExamplePrivacy | None = None
    client: ClientPrivacy | None = None
    randomness: Literal["reproducible", "secure"] = "reproducible"
    ledger: str | None = None


@section
@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when the test loss has not improved for ``patience`` evaluations."""

    patience: Count = 5


@section
@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluate every so many rounds (and after the last) on the held-out test data.

    ``unseen_clients`` is a share of the clients that never train and are tested apart. With ``folds``, the run is made
    so many times, and every client holds back another part of its records each time; ``fold`` (from 1) is one of them.
    """

    every: Count = 1
    early_stopping: EarlyStopping | None = None
    test: TestDataChoice = SourceTest()
    unseen_clients: Annotated[float, Field(ge=0, lt=1)] = 0.0
    folds: Annotated[int, Field(ge=2, le=1000)] | None = None
    fold: Count | None = None

    @property
    def tests_clients(self) -> bool:
        """Whether the test records are held back by the clients that train."""
        return self.folds is not None or self.test.kind != "source"


@section
@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Real sites as clients: those behind ``connection``, a name in Flower's configuration (``fedsim deploy server``).

    They have ``join_seconds`` to come online, then ``round_seconds`` for each round; at least ``min_sites`` must accept
    the scenario. ``test_data`` is a file of the server's own to test on; without it, the sites test on what they hold
    back, if their policies allow.
    """

    connection: str
    join_seconds: Positive = 60.0
    round_seconds: Positive = 600.0
    min_sites: Count = 1
    test_data: str | None = None


@section
@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a Ray actor takes of its machine: cores, on which it trains, and GPUs, of which it may be a fraction."""

    cpu: Annotated[float, Field(ge=0.01, le=1024)] = 1.0
    gpu: Annotated[float, Field(ge=0, le=64)] = 0.0


@section
@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Where clients live and what trains them, on how many threads (``workers`` left out: one for each core).

    ``ray`` spreads them over so many actors (``workers`` left out: as many as fit), each with ``resources``, on this
    machine or on the running cluster at ``address`` ("auto" or host:port). ``memory_gib`` bounds the memory of the
    clients that train at once, and of what frozen first layers make of the examples, which is kept if it fits; each
    actor has as much.
    """

    kind: Literal["inprocess", "ray", "deployment"] = "inprocess"
    address: str | None = None
    resources: Resources | None = None
    trainer: Literal["auto", "native", "vectorised", "opacus"] = "auto"
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    memory_gib: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    deployment: Deployment | None = None

    @property
    def actor(self) -> Resources:
        """What each Ray actor takes."""
        return self.resources or Resources()


@section
@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One run, described; load one with ``fedsim.load_scenario``."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")] = "scenario"
    seed: Annotated[int, Field(ge=0)] = 0
    rounds: Count = 10
    data: DataChoice = Digits()
    population: PopulationSettings = PopulationSettings()
    task: TaskChoice | None = None
    model: ModelChoice = Mlp()
    algorithm: AlgorithmChoice = FedAvg()
    cohort: Cohort = Cohort()
    communication: Communication = Communication()
    attack: AttackChoice | None = None
    devices: Devices | None = None
    asynchronous: AsynchronousChoice | None = None
    privacy: Privacy = field(default_factory=Privacy)
    evaluation: Evaluation = Evaluation()
    engine: EngineSettings = EngineSettings()

    def to_dict(self) -> dict[str, Any]:
        """Plain values with every default written out; absent options are left out, as TOML has no null."""
        values = _without_none(dataclasses.asdict(self))
        assert isinstance(values, dict)
        return values

    def to_toml(self) -> str:
        """The resolved scenario file; loading it gives an equal scenario."""
        return self._toml

    @cached_property
    def _toml(self) -> str:
        import tomli_w  # every round's job carries the text

        return tomli_w.dumps(self.to_dict())

    @property
    def runs(self) -> list[Scenario]:
        """The runs that it stands for: itself, or one for each fold."""
        evaluation = self.evaluation
        if evaluation.folds is None or evaluation.fold is not None:
            return [self]
        numbers = range(1, evaluation.folds + 1)
        return [dataclasses.replace(self, evaluation=dataclasses.replace(evaluation, fold=fold)) for fold in numbers]

    @property
    def draw_seed(self) -> int:
        """The seed of what rounds draw: a fold has one of its own, so that no two folds draw the same noise."""
        fold = self.evaluation.fold
        return self.seed if fold is None else int(generator(self.seed, Stream.FOLD, fold).integers(2**62))

    @cached_property
    def digest(self) -> str:
        """Fingerprint of everything in the scenario, 12 hex digits."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
