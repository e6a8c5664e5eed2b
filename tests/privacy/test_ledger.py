"""The ledger: what was charged is what is reported, over rounds, restarts and runs that share it."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fedsim.errors import BadInput, BudgetExhausted
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.ledger import Ledger, Limit
from fedsim.privacy.plan import Charge

EVENT = Event(1.0, 0.1, "poisson")
DELTA = 1e-5


def ids(*clients: int) -> np.ndarray:
    return np.array(clients, np.int64)


def example(count: int, *clients: int, event: Event = EVENT) -> Charge:
    return Charge("example", event, count, ids(*clients))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def test_a_client_is_charged_for_exactly_the_rounds_it_took_part_in(path):
    """Rounds 1, 5 and 9 of 10, seven steps each: 21 steps, as an independent composition says; nobody else pays."""
    ledger = Ledger(path, "p", 3, "run")
    for round_ in range(1, 11):
        ledger.charge(round_, [example(7, 1)] if round_ in (1, 5, 9) else [])
    assert ledger.composition("example", 1) == ((EVENT, 21),)
    assert ledger.composition("example", 0) == ()
    whole = epsilon(compose([(EVENT, 21)]), DELTA)
    np.testing.assert_array_equal(ledger.epsilons("example", DELTA), [0, whole, 0])
    # an accountant rebuilt each round would report only the last round's seven steps
    rebuilt = epsilon(compose([(EVENT, 7)]), DELTA)
    assert ledger.spent("example", DELTA) == whole > 1.3 * rebuilt


def test_the_balance_is_the_sum_of_random_charges(path):
    """Against the obvious dictionary, over 200 random charges with three mechanisms, reopened half-way."""
    rng = np.random.default_rng(0)
    events = [EVENT, Event(2.0, 0.3, "poisson"), Event(4.0)]
    expected: dict[int, dict[Event, int]] = {client: {} for client in range(20)}
    ledger = Ledger(path, "p", 20, "run")
    for round_ in range(200):
        if round_ == 100:
            ledger.close()
            ledger = Ledger(path, "p", 20, "run")
        event, count = events[rng.integers(3)], int(rng.integers(1, 4))
        everyone = rng.random() < 0.2
        clients = np.arange(20) if everyone else np.sort(rng.choice(20, rng.integers(0, 8), replace=False))
        ledger.charge(round_, [Charge("example", event, count, None if everyone else clients)])
        for client in clients:
            expected[int(client)][event] = expected[int(client)].get(event, 0) + count
    for client in range(20):
        assert ledger.composition("example", client) == compose(expected[client].items())


def test_units_are_kept_apart(path):
    ledger = Ledger(path, "p", 2, "run")
    ledger.charge(1, [example(3, 0), Charge("client", Event(5.0), 1, None)])
    assert ledger.composition("example", 0) == ((EVENT, 3),)
    assert ledger.composition("client", 0) == ledger.composition("client", 1) == ((Event(5.0), 1),)


def test_charging_a_round_again_after_a_restart_changes_nothing(path):
    Ledger(path, "p", 2, "run").charge(1, [example(3, 0)])
    ledger = Ledger(path, "p", 2, "run")
    ledger.charge(1, [example(3, 0)])
    assert ledger.composition("example", 0) == ((EVENT, 3),)
    Ledger(path, "p", 2, "another run").charge(1, [example(3, 0)])
    ledger.charge(2, [])
    assert ledger.composition("example", 0) == ((EVENT, 6),)


def test_overspending_is_refused_before_anything_is_recorded(path):
    limit = epsilon(compose([(EVENT, 10)]), DELTA)
    ledger = Ledger(path, "p", 2, "run", {"example": Limit(limit, np.full(2, DELTA))})
    ledger.charge(1, [example(10, 0)])
    before = ledger.composition("example", 1)
    with pytest.raises(BudgetExhausted, match="1 client"):
        ledger.charge(2, [example(1, 1), example(1, 0)])
    assert ledger.composition("example", 0) == ((EVENT, 10),)
    assert ledger.composition("example", 1) == before
    assert Ledger(path, "p", 2, "again").composition("example", 0) == ((EVENT, 10),)
    np.testing.assert_array_equal(ledger.affordable(example(10, 0, 1)), [False, True])


def test_a_ledger_of_another_population_or_no_ledger_is_refused(path, tmp_path):
    Ledger(path, "p", 2, "run").close()
    with pytest.raises(BadInput, match="another population"):
        Ledger(path, "q", 2, "run")
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"this is not a database, not at all, not even close" * 40)
    with pytest.raises(BadInput, match="cannot be used"):
        Ledger(junk, "p", 2, "run")


def test_the_file_is_plain_sqlite_that_anybody_can_add_up(path):
    ledger = Ledger(path, "p", 4, "run")
    ledger.charge(1, [example(3, 0, 2)])
    ledger.close()
    with sqlite3.connect(path) as db:
        row = db.execute(
            "SELECT unit, noise_multiplier, rate, sampling, relation, count, clients FROM charges"
        ).fetchone()
    assert row[:6] == ("example", 1.0, 0.1, "poisson", "add-remove", 3)
    assert np.frombuffer(row[6], "<i8").tolist() == [0, 2]


def _spend(path: Path, run: str, limit: float) -> None:
    ledger = Ledger(path, "p", 1, run, {"example": Limit(limit, np.full(1, DELTA))})
    for round_ in range(100):
        try:
            ledger.charge(round_, [example(1, 0)])
        except BudgetExhausted:
            return


def test_concurrent_runs_cannot_overspend_together(path):
    """Three processes race to spend what 40 events cost; afterwards exactly 40 are there."""
    limit = epsilon(compose([(EVENT, 40)]), DELTA)
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=_spend, args=(path, f"run {number}", limit)) for number in range(3)]
    for process in runs:
        process.start()
    for process in runs:
        process.join(120)
        assert process.exitcode == 0
    assert Ledger(path, "p", 1, "reader").composition("example", 0) == ((EVENT, 40),)


def test_many_clients_share_few_states(path):
    """A million clients in two groups: two compositions beside the empty one, whatever the number of clients."""
    ledger = Ledger(path, "p", 1_000_000, "run")
    even, odd = np.arange(0, 1_000_000, 2), np.arange(1, 1_000_000, 2)
    ledger.charge(1, [Charge("example", EVENT, 2, even), Charge("example", EVENT, 3, odd)])
    assert sorted(c[0][1] for c in ledger.compositions("example")) == [2, 3]
    assert ledger.spent("example", DELTA) == epsilon(compose([(EVENT, 3)]), DELTA)


def test_a_charge_of_everybody_and_of_some_add_up_whatever_the_order(path):
    """Two states can never become one by a charge of everybody, nor a client be lost between them."""
    ledger, other = Ledger(path, "p", 4, "run"), Event(2.0)
    for round_, charge in enumerate(
        [example(1, 0, 1), Charge("example", other, 2, None), example(1, 1, 2), Charge("example", EVENT, 1, None)]
    ):
        ledger.charge(round_, [charge])
    expected = [2, 3, 2, 1]
    for client, count in enumerate(expected):
        assert ledger.composition("example", client) == compose([(EVENT, count), (other, 2)])
    assert len(ledger.compositions("example")) == 3
