"""The ledger: order does not matter, more never costs less, a charge counts once, a refusal leaves no trace."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import BadInput, BudgetExhausted
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.ledger import Ledger, Limit
from fedsim.privacy.plan import Charge
from tests.properties.profile import tried

CLIENTS, DELTA = 4, 1e-5
# Few, so that their answers are computed once.
EVENTS = (Event(1.0, 0.1, "poisson"), Event(2.0, 0.5, "poisson"), Event(4.0), Event(8.0))
clients = st.one_of(
    st.none(), st.sets(st.integers(0, CLIENTS - 1)).map(sorted).map(lambda ids: np.array(ids, np.int64))
)
charges = st.builds(Charge, st.sampled_from(["example", "client"]), st.sampled_from(EVENTS), st.integers(1, 3), clients)
rounds = st.lists(st.lists(charges, max_size=2, unique_by=lambda each: (each.unit, each.event, each.count)), max_size=5)
numbers = count()


def opened(folder: Path, **options: object) -> Ledger:
    return Ledger(folder / f"{next(numbers)}.db", "p", CLIENTS, "run", **options)


def histories(ledger: Ledger) -> list[object]:
    return [ledger.composition(unit, client) for unit in ("example", "client") for client in range(CLIENTS)]


@tried(25)
@given(rounds, st.randoms(use_true_random=False))
def test_the_order_of_charges_does_not_matter(tmp_path, plan, random):
    shuffled = list(enumerate(plan))
    random.shuffle(shuffled)
    one, other = opened(tmp_path), opened(tmp_path)
    for number, each in enumerate(plan):
        one.charge(number, each)
    for number, each in shuffled:
        other.charge(number, each[::-1])
    assert histories(one) == histories(other)
    for unit in ("example", "client"):
        assert (
            one.epsilons(unit, np.full(CLIENTS, DELTA)).tolist()
            == other.epsilons(unit, np.full(CLIENTS, DELTA)).tolist()
        )
    one.close()
    other.close()


@tried(25)
@given(rounds, st.lists(charges, max_size=2, unique_by=lambda each: (each.unit, each.event, each.count)))
def test_a_round_is_charged_once_and_only_for_the_same(tmp_path, plan, other):
    ledger = opened(tmp_path)
    for number, each in enumerate(plan):
        ledger.charge(number, each)
        before = histories(ledger)
        ledger.charge(number, each[::-1])
        assert histories(ledger) == before
        if each and sorted(map(repr, other)) != sorted(map(repr, each)):
            with pytest.raises(BadInput, match="charged before with other events"):
                ledger.charge(number, other)
            assert histories(ledger) == before
    ledger.close()


@tried(20)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 4)), max_size=3), st.sampled_from(EVENTS), st.data())
def test_more_events_and_a_smaller_delta_never_cost_less(parts, more, data):
    deltas = sorted(data.draw(st.lists(st.sampled_from([1e-9, 1e-7, 1e-5, 1e-3]), min_size=2, max_size=2)))
    whole = compose(parts)
    larger = compose([*parts, (more, data.draw(st.integers(1, 3)))])
    # Discretised, so that the last digits may differ.
    slack = 1e-9
    assert epsilon(larger, deltas[0]) >= epsilon(whole, deltas[0]) - slack
    assert epsilon(whole, deltas[0]) >= epsilon(whole, deltas[1]) - slack
    assert epsilon((), deltas[0]) == 0


@tried(25)
@given(rounds, charges)
def test_a_refused_charge_leaves_the_ledger_and_its_file_as_they_were(tmp_path, plan, last):
    """The limit is what is spent already, so that any further charge of somebody goes beyond it."""
    ledger, deltas = opened(tmp_path), np.full(CLIENTS, DELTA)
    for number, each in enumerate(plan):
        ledger.charge(number, each)
    spent = ledger.spent(last.unit, deltas)
    ledger.limits[last.unit] = Limit(spent, deltas)
    before, file = histories(ledger), tmp_path / f"{next(numbers) - 1}.db"
    asked = range(CLIENTS) if last.clients is None else last.clients
    too_much = [
        epsilon(compose([*ledger.composition(last.unit, int(client)), (last.event, last.count)]), DELTA) > spent
        for client in asked
    ]
    rows = lines(file)
    if any(too_much):
        with pytest.raises(BudgetExhausted, match=f"{sum(too_much)} client"):
            ledger.charge(99, [last])
        assert histories(ledger) == before
        assert lines(file) == rows
        assert not ledger.charged(99)
    else:
        ledger.charge(99, [last])
        assert len(lines(file)) == len(rows) + 1
    ledger.close()


def lines(file: Path) -> list[object]:
    with closing(sqlite3.connect(file)) as db:
        return db.execute("SELECT * FROM charges ORDER BY id").fetchall()
