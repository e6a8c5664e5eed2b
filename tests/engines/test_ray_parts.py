"""What the Ray engine is made of: room on machines, settings, and clients' state that travels with a job."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from fedsim.algorithms import FedAvg
from fedsim.client import train_clients
from fedsim.client_store import CarriedRows, ClientStore
from fedsim.engines.ray_cluster import room
from fedsim.loading import ScenarioError, parse_scenario
from fedsim.messages import MalformedMessage, SharedArray, pack_job, pack_reply, unpack_job, unpack_reply
from fedsim.scenario import Resources
from tests.conftest import EXAMPLE_PRIVACY, SMALL, job_of


def machine(cpu: float, gpu: float = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpu, "GPU": gpu}}


@pytest.mark.parametrize(
    ("actor", "machines", "expected"),
    [
        (Resources(), [machine(4), machine(2)], 6),
        (Resources(cpu=3), [machine(2), machine(4)], 1),
        (Resources(cpu=0.1), [machine(1)], 10),
        (Resources(cpu=1), [machine(4), machine(4, alive=False)], 4),
        (Resources(cpu=1, gpu=0.25), [machine(8, 1), machine(8, 0)], 4),
        (Resources(cpu=1, gpu=0.6), [machine(8, 2)], 2),
        (Resources(cpu=1, gpu=2), [machine(8, 5)], 2),
        (Resources(cpu=1, gpu=1), [machine(2, 8)], 2),
        (Resources(cpu=4), [], 0),
    ],
)
def test_actors_fit_into_single_machines_and_single_gpus(actor, machines, expected):
    assert room(machines, actor) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('engine.address="auto"', 'engine.address: only used with engine.kind = "ray"'),
        ("engine.resources={cpu=2}", 'engine.resources: only used with engine.kind = "ray"'),
        ('engine={kind="ray", address="ray://head:10001"}', 'must be "auto" or host:port'),
        ('engine={kind="ray", address="head"}', 'must be "auto" or host:port'),
        ('engine={kind="ray", resources={gpu=1.5}}', "engine.resources.gpu = 1.5"),
        ('engine={kind="ray", device="cuda"}', "Ray actors see no GPU unless"),
    ],
)
def test_settings_that_cannot_work_are_refused(override, message):
    with pytest.raises(ScenarioError, match=message.replace("(", r"\(")):
        parse_scenario(SMALL, "small", [override])


def test_a_cohort_is_dealt_out_evenly_by_size_and_nobody_is_lost(federation):
    population = federation("population.clients=30").population
    cohort = np.arange(1, 30, 2)
    parts = population.dealt(cohort, 4)
    assert np.array_equal(np.sort(np.concatenate(parts)), cohort)
    sums = [population.sizes[part].sum() for part in parts]
    assert max(sums) - min(sums) <= population.sizes[cohort].max()
    assert np.array_equal(population.dealt(cohort, 1)[0], cohort)
    assert [len(part) for part in population.dealt(cohort[:2], 4)] == [1, 1, 0, 0]


def test_an_array_is_pickled_as_what_it_holds():
    array = np.arange(6.0).reshape(2, 3)
    copy = pickle.loads(pickle.dumps(SharedArray(array)))
    assert type(copy) is SharedArray
    assert np.array_equal(copy.numpy(), array)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(SharedArray(array), protocol=5, buffer_callback=buffers.append)
    read_only = pickle.loads(data, buffers=[memoryview(bytes(buffer.raw())) for buffer in buffers])
    assert read_only.numpy().flags.writeable, "torch warns of memory that it must not write to"


def test_carried_rows_are_found_by_client_in_any_order():
    clients = np.array([7, 2, 9])
    given = np.arange(6, dtype=np.float32).reshape(3, 2)
    rows = CarriedRows(clients, given)
    assert rows.read(np.array([9, 7])).tolist() == [[4, 5], [0, 1]]
    rows.write(1, np.array([2]), np.full((1, 2), 8, np.float32))
    assert rows.rows.tolist() == [[0, 1], [8, 8], [4, 5]]
    assert given[1].tolist() == [2, 3], "what was sent belongs to the sender"


@dataclass(frozen=True)
class Remembering(FedAvg):
    """Clients keep the first two values of their last updates' sum and report the update plus what they keep."""

    def state_size(self, layout):
        return 2

    def train(self, trainer, given, work):
        trained = super().train(trainer, given, work)
        state = given.state + trained.updates[:, :2]
        trained.updates[:, :2] += state
        return replace(trained, state=state)


def test_state_that_travels_with_the_job_gives_the_same_as_state_that_is_kept(federation, tmp_path):
    made = federation()
    made = replace(made, scenario=replace(made.scenario, algorithm=Remembering(local=made.scenario.algorithm.local)))
    store = ClientStore(tmp_path / "state", len(made.population), 2)
    job, rows = job_of(made), np.zeros((len(made.population), 2), np.float32)
    for round_ in (1, 2, 3):
        kept = train_clients(made, replace(job, round=round_), store)
        carried = train_clients(made, replace(job, round=round_, state=rows))
        assert np.array_equal(carried.total, kept.total)
        assert kept.state is None
        assert np.array_equal(carried.state, store.read(job.clients))
        rows = carried.state
    assert np.abs(rows).max(axis=1).min() > 0
    with pytest.raises(MalformedMessage):
        train_clients(made, replace(job, state=rows[:-1]))


def test_state_goes_through_messages(federation):
    made = federation()
    made = replace(made, scenario=replace(made.scenario, algorithm=Remembering(local=made.scenario.algorithm.local)))
    job = replace(job_of(made), state=np.ones((len(made.population), 2), np.float32))
    message = pack_job(job, 1)
    assert np.array_equal(unpack_job(message).state, job.state)
    reply = train_clients(made, unpack_job(message))
    answer = unpack_reply(pack_reply(reply, message), made.report_size, job.clients)
    assert np.array_equal(answer.state, reply.state)


def test_a_job_that_is_sent_again_has_other_noise_where_randomness_is_secure(federation):
    made = federation("privacy.randomness=secure", text=SMALL + EXAMPLE_PRIVACY)
    first, again = (train_clients(made, job_of(made)) for _ in range(2))
    assert first.events == again.events
    assert np.abs(first.total - again.total).min() > 0
