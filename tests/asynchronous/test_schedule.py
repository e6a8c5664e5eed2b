"""Who starts and arrives when, against a look at every client's every start by itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from fedsim.asynchronous.fedasync import FedAsync
from fedsim.asynchronous.fedbuff import FedBuff
from fedsim.asynchronous.schedule import Schedule
from fedsim.asynchronous.staleness import ConstantStaleness, HingeStaleness, PolynomialStaleness
from fedsim.devices import Devices, Dropout, Fleet, Load
from fedsim.devices.constant import ConstantSpeed
from fedsim.devices.diurnal import Diurnal
from fedsim.devices.lognormal import LogNormalSpeed
from fedsim.devices.presence_trace import PresenceTrace
from fedsim.devices.probability import Probability
from fedsim.devices.round_times import event_uniforms
from fedsim.errors import BadInput

TAILED = Devices(compute=LogNormalSpeed(median=10, sigma=1.5), latency_seconds=0.1)
FAILING = replace(TAILED, dropout=Dropout(before_upload=0.3, after_upload=0.3))


def schedule(settings=TAILED, clients=30, method=None, rounds=60):
    fleet = Fleet.of(settings, clients, seed=5, draw_seed=5)
    load = Load(np.arange(1.0, clients + 1), 4000, 2000)
    return Schedule(method or FedBuff(buffer_size=4, concurrency=8), fleet, load, rounds)


CASES = {
    "tailed": schedule(),
    "failing": schedule(FAILING),
    "absent": schedule(replace(FAILING, availability=Probability(probability=0.3))),
    "diurnal": schedule(replace(TAILED, availability=Diurnal(low=0.0, high=0.5, period_seconds=20.0))),
    "even": schedule(Devices(compute=ConstantSpeed(examples_per_second=1e9)), method=FedBuff(buffer_size=3)),
    "one": schedule(method=FedAsync(concurrency=5)),
    "everybody": schedule(FAILING, method=FedBuff(buffer_size=30, concurrency=30)),
}


def lengths_of(made):
    clients = np.arange(len(made.fleet))
    return made.fleet.seconds_to_train(clients, made.load) + made.fleet.seconds_to_send(clients, made.load)


@pytest.mark.parametrize("case", CASES)
def test_all_follows_from_who_began_when(case):
    """Every job from its start to its end, looked at one by one: the steps, the places, and who may begin."""
    made = CASES[case]
    lengths, size, places = lengths_of(made), made.method.buffer_size, min(made.method.concurrency, len(made.fleet))
    jobs, before = [], 0.0  # (client, turn, begin, end, sent)
    turns = list(made.turns())
    for turn in turns:
        assert turn.started.tolist() == sorted(set(turn.started))
        for client, begin in zip(turn.started.tolist(), turn.began.tolist(), strict=True):
            assert before <= begin <= turn.seconds
            lost = client in turn.lost
            when = event_uniforms(made.fleet, turn.number, np.array([client]))[0, 1]
            ready = made.fleet.seconds_to_train(np.array([client]), made.load)[0]
            length = ready + when * (lengths[client] - ready) if lost else lengths[client]
            jobs.append((client, turn.number, begin, begin + length, not lost))
        before = turn.seconds
    for client in range(len(made.fleet)):  # never twice in flight
        own = sorted(job[2:4] for job in jobs if job[0] == client)
        assert all(end <= begin for (_, end), (begin, _) in pairwise(own))
    arriving = sorted((end, begin, client, number) for client, number, begin, end, sent in jobs if sent)
    for turn in turns:
        assert len(set(turn.arrived)) == len(turn.arrived) <= size
        taken = set(zip(turn.arrived.tolist(), turn.from_rounds.tolist(), strict=True))
        own, arriving = arriving[: len(taken)], arriving[len(taken) :]
        if case != "even":  # there all ends are equal, and the order is that of the starts
            assert taken == {(client, number) for *_, client, number in own}
        if len(taken) == size:
            assert turn.seconds == own[-1][0]
        assert turn.staleness.tolist() == [turn.number - number for number in turn.from_rounds]
    for moment in [0.0, *(job[3] for job in jobs)]:
        assert sum(begin <= moment < end for *_, begin, end, _ in jobs) <= places
    if case == "tailed":  # more clients than places, all of them there: no place is ever empty
        for moment in [0.0, *(job[3] for job in jobs if job[3] < turns[-1].seconds)]:
            assert sum(begin <= moment < end for *_, begin, end, _ in jobs) == places
    assert (min(len(turn.arrived) for turn in turns) < size) == (case == "everybody")


def test_with_one_place_clients_follow_one_another():
    """The clock is then the sum of the durations, client after client."""
    made = schedule(method=FedAsync(concurrency=1))
    lengths = lengths_of(made)
    now = 0.0
    for turn in made.turns():
        assert turn.started.tolist() == turn.arrived.tolist()
        now += lengths[turn.started[0]]
        assert turn.seconds == pytest.approx(now)
        assert turn.staleness.tolist() == [0]


def test_equal_devices_that_all_take_part_are_rounds():
    even = Devices(compute=ConstantSpeed(examples_per_second=3))
    fleet = Fleet.of(even, 12, seed=0, draw_seed=0)
    made = Schedule(FedBuff(buffer_size=12, concurrency=12), fleet, Load(np.full(12, 6.0), 10**6, 2 * 10**6), 9)
    for turn in made.turns():
        assert turn.started.tolist() == turn.arrived.tolist() == list(range(12))
        assert turn.seconds == pytest.approx(5.0 * turn.number)  # 1 s down, 2 s training, 2 s up
        assert not turn.staleness.any()
    assert (made.most_starts, made.most_arrivals) == (9, 9)


def test_a_schedule_is_the_same_whenever_it_is_gone_through():
    made = CASES["absent"]
    for one, two in zip(made.turns(), made.turns(), strict=True):
        assert one.seconds == two.seconds
        for name in ("started", "began", "lost", "forgetful", "arrived", "from_rounds"):
            assert getattr(one, name).tolist() == getattr(two, name).tolist()


def test_how_often_clients_start_and_arrive_is_counted():
    made = CASES["failing"]
    starts, arrivals = np.zeros((2, 30), int)
    for turn in made.turns():
        for client in turn.started:
            starts[client] += 1
        for client in turn.arrived:
            arrivals[client] += 1
    assert (made.most_starts, made.most_arrivals) == (starts.max(), arrivals.max())
    assert made.most_arrivals < made.most_starts


def test_starts_are_spread_evenly_over_clients_of_one_speed():
    even = Devices(compute=ConstantSpeed(examples_per_second=3))
    fleet = Fleet.of(even, 50, seed=0, draw_seed=0)
    made = Schedule(FedBuff(buffer_size=5, concurrency=10), fleet, Load(np.full(50, 6.0), 0, 0), 2000)
    starts = np.zeros(50)
    for turn in made.turns():
        starts[turn.started] += 1
    assert starts.mean() == pytest.approx(200, rel=0.02)
    assert starts.std() < 14  # a binomial with as many draws has 14


def test_nobody_ever_there_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.asynchronous.schedule.MOST_RETRIES", 20)
    file = tmp_path / "hours.csv"
    file.write_text("client,start,end\n0,10,20\n")
    made = schedule(replace(TAILED, availability=PresenceTrace(path=str(file), period_seconds=30)))
    with pytest.raises(BadInput, match="nobody was there when the server asked 20 times"):
        list(made.turns())


def test_staleness_weights_are_those_of_the_papers():
    late = np.array([0, 1, 3, 8])
    assert PolynomialStaleness(a=0.5).weights(late).tolist() == pytest.approx([1, 2**-0.5, 0.5, 1 / 3])
    assert HingeStaleness(a=10, b=3).weights(late).tolist() == pytest.approx([1, 1, 1, 1 / 51])
    assert ConstantStaleness().weights(late).tolist() == [1, 1, 1, 1]
    assert (FedBuff().staleness, FedBuff().factor, FedAsync(mixing=0.3).factor) == (PolynomialStaleness(), 1.0, 0.3)
