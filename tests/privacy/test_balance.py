"""The largest epsilon, found at the cost of a cohort, against computing every client's."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.privacy.accounting import epsilon
from fedsim.privacy.balance import Balance
from fedsim.privacy.events import Event

EVENTS = [Event(1.0, 0.1, "poisson"), Event(1.1, 0.08, "poisson"), Event(2.0, 0.3, "poisson"), Event(4.0)]


def obvious(balance: Balance, deltas: np.ndarray) -> float:
    """Every client's epsilon, one by one."""
    histories = [balance.states[number].composition for number in balance.state.tolist()]
    return max(epsilon(history, delta) for history, delta in zip(histories, deltas.tolist(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_the_largest_epsilon_is_that_of_all_clients(seed):
    """Over random charges, some for everybody, at one delta, then at one for each client, and so on."""
    rng = np.random.default_rng(seed)
    balance = Balance(12)
    for step in range(60):
        if step % 15 == 0:
            deltas = np.full(12, 1e-5) if step % 30 == 0 else 10.0 ** -rng.integers(3, 8, 12)
        everyone = rng.random() < 0.1
        clients = None if everyone else np.sort(rng.choice(12, rng.integers(0, 6), replace=False))
        balance.add(EVENTS[rng.integers(4)], int(rng.integers(1, 4)), clients)
        balance.judge(deltas)
        assert balance.largest() == obvious(balance, deltas)
        members = [state.members for state in balance.states.values()]
        assert (sum(members), min(members) > 0) == (12, True)
        assert {state.delta for state in balance.states.values()} == set(deltas.tolist())
        assert len(balance._numbers) == len(balance.states)


def test_histories_that_nobody_has_any_more_are_forgotten():
    balance = Balance(1000)
    balance.judge(np.full(1000, 1e-5))
    rng = np.random.default_rng(0)
    for _ in range(300):
        balance.add(EVENTS[3], int(rng.integers(1, 100)), rng.choice(1000, 20, replace=False))
        balance.largest()
    assert len(balance.states) <= 1000
    assert len(balance._bounds) <= 2 * len(balance.states) + 120
    assert len(balance._numbers) == len(balance.states)
