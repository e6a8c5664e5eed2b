"""What looking at many runs costs, from their ledgers, against dp-accounting and the selection of one composition."""

import math
import shutil
from pathlib import Path

import dp_accounting
import pytest

from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.looking import charges, cost_of_looking
from fedsim.privacy.looking_exact import dearest
from fedsim.privacy.plan import Charge
from fedsim.privacy.selection import Tries, selection_epsilon
from tests.report.example_sweeps import write_ledger

DELTA, TRIES = 1e-5, Tries(3)
CLOSE = 1e-3  # dp-accounting's series stops early at fractional orders, and it then drops the order
EVERYONE = list(range(20))


def renyi(events: list[tuple[float, float, int]], delta: float = DELTA) -> float:
    """By dp-accounting, at our orders."""
    from fedsim.privacy.selection import _ORDERS

    accountant = dp_accounting.rdp.RdpAccountant(_ORDERS.tolist())
    for noise, rate, count in events:
        step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        accountant.compose(step, count)
    return float(accountant.get_epsilon(delta))


def losses(events: list[tuple[float, float, int]], delta: float = DELTA) -> float:
    """By dp-accounting's privacy loss distributions."""
    accountant = dp_accounting.pld.PLDAccountant()
    for noise, rate, count in events:
        step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
        accountant.compose(step, count)
    return float(accountant.get_epsilon(delta))


def test_all_runs_compose_and_a_setting_counts_with_its_seeds(tmp_path: Path) -> None:
    ledgers = [
        [write_ledger(tmp_path / f"{noise}-{seed}.db", [("client", noise, 0.05, 100, None)]) for seed in range(2)]
        for noise in (1.5, 2.0)
    ]
    found = cost_of_looking(ledgers, "client", DELTA, TRIES)
    assert found.everything == pytest.approx(losses([(1.5, 0.05, 200), (2.0, 0.05, 200)]), rel=CLOSE)
    assert found.one == pytest.approx(losses([(1.5, 0.05, 200)]), rel=CLOSE)
    assert (found.one_by, found.everything_by) == ("pld", "pld")
    base = compose([(Event(1.5, 0.05, "poisson"), 200)])
    assert found.best == pytest.approx(selection_epsilon(base, DELTA, TRIES), rel=1e-9)
    assert found.one < min(found.best, found.everything)
    assert found.rounded == 1


def test_a_run_counts_by_its_worst_client(tmp_path: Path) -> None:
    rows = [
        ("example", 1.2, 0.1, 30, [0, 3]),
        ("example", 1.2, 0.1, 20, [3]),
        ("example", 1.2, 0.02, 90, [7]),
        ("client", 0.1, 0.9, 900, None),
    ]
    found = cost_of_looking([[write_ledger(tmp_path / "l.db", rows)]], "example", DELTA, TRIES)
    assert found.one == found.everything == pytest.approx(renyi([(1.2, 0.1, 50)]), rel=CLOSE)
    assert (found.one_by, found.everything_by) == ("rdp", "rdp")


def test_a_client_who_has_every_event_most_often_bounds_all_the_others(tmp_path: Path) -> None:
    rows = [
        ("example", 1.2, 0.1, 30, [0, 3]),
        ("example", 1.2, 0.1, 20, [3]),
        ("example", 1.2, 0.02, 90, [3]),
        ("example", 1.2, 0.02, 60, [7]),
    ]
    found = cost_of_looking([[write_ledger(tmp_path / "l.db", rows)]], "example", DELTA, TRIES)
    assert found.one_by == "pld"
    assert found.one == found.everything == pytest.approx(losses([(1.2, 0.1, 50), (1.2, 0.02, 90)]), rel=CLOSE)


def test_the_dearest_setting_is_found_among_all_and_never_put_too_low(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [compose([(Event(noise, 0.05, "poisson"), 100)]) for noise in (2.0, 1.5, 1.51, 3.0)]
    exact = [epsilon(each, DELTA) for each in settings]
    bounds = [value * slack for value, slack in zip(exact, (1.9, 1.1, 1.2, 1.1), strict=True)]
    assert dearest(settings, bounds, DELTA) == (max(exact), "pld")
    assert dearest([*settings, None], [*bounds, 1.05 * max(exact)], DELTA) == (1.05 * max(exact), "rdp")
    monkeypatch.setattr("fedsim.privacy.looking_exact.MOST_SETTINGS", 1)
    assert dearest(settings, bounds, DELTA) == (sorted(bounds)[-2], "rdp")


def test_runs_with_different_worst_clients_never_cost_less_than_any_client(tmp_path: Path) -> None:
    one = write_ledger(tmp_path / "1.db", [("example", 1.2, 0.1, 30, [0]), ("example", 1.2, 0.01, 30, [1])])
    two = write_ledger(tmp_path / "2.db", [("example", 1.2, 0.1, 30, [1]), ("example", 1.2, 0.01, 30, [0])])
    found = cost_of_looking([[one], [two]], "example", DELTA, TRIES)
    assert found.everything >= renyi([(1.2, 0.1, 30), (1.2, 0.01, 30)])
    assert found.everything == pytest.approx(renyi([(1.2, 0.1, 60)]), rel=CLOSE)


def test_very_many_different_runs_are_rounded_against_the_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsim.privacy.looking.MOST_EVENTS", 6)
    noises = [1.0 + index / 40 for index in range(12)]
    ledgers = [[write_ledger(tmp_path / f"{noise}.db", [("client", noise, 0.03, 10, None)])] for noise in noises]
    monkeypatch.setattr("fedsim.privacy.looking_exact.MOST_EVENTS", 6)
    found = cost_of_looking(ledgers, "client", DELTA, TRIES)
    exact = renyi([(noise, 0.03, 10) for noise in noises])
    assert 1 < found.rounded <= 1.05
    assert exact <= found.everything <= 1.1 * exact
    assert found.everything_by == "rdp"


@pytest.mark.parametrize("rows", [[], [("example", 1.0, 0.1, 5, EVERYONE)], [("client", 0.0, 0.5, 5, None)]])
def test_a_run_without_a_charge_or_noise_costs_everything(tmp_path: Path, rows: list[tuple]) -> None:
    sound = write_ledger(tmp_path / "sound.db", [("client", 2.0, 0.1, 10, None)])
    found = cost_of_looking([[sound], [write_ledger(tmp_path / "l.db", rows)]], "client", DELTA, TRIES)
    assert math.isinf(found.everything)
    assert math.isinf(found.best)


def test_unsampled_and_replaced_units(tmp_path: Path) -> None:
    path = write_ledger(tmp_path / "l.db", [("client", 4.0, 1.0, 10, None)])
    found = cost_of_looking([[path]], "client", DELTA, Tries(1))
    assert found.best == pytest.approx(renyi([(4.0, 1.0, 10)]), rel=CLOSE)
    assert found.one == epsilon(compose([(Event(4.0), 10)]), DELTA)


def test_the_ledger_of_a_killed_run_is_read_with_its_log(tmp_path: Path) -> None:
    charge = Charge("client", Event(2.0, 0.1, "poisson"), 10, None)
    ledger = Ledger(tmp_path / "ledger.db", "people", 20, "run")
    ledger.charge(1, [charge])
    (tmp_path / "killed").mkdir()
    for file in tmp_path.glob("ledger.db*"):
        shutil.copy(file, tmp_path / "killed")
    open_one = cost_of_looking([[tmp_path / "killed" / "ledger.db"]], "client", DELTA, TRIES)
    ledger.close()
    assert open_one == cost_of_looking([[tmp_path / "ledger.db"]], "client", DELTA, TRIES)
    assert open_one.one == pytest.approx(losses([(2.0, 0.1, 10)]), rel=CLOSE)


def test_reading_leaves_the_ledger_as_it_is(tmp_path: Path) -> None:
    path = write_ledger(tmp_path / "l ?#%.db", [("client", 4.0, 1.0, 10, None)])
    before, files = path.read_bytes(), sorted(tmp_path.iterdir())
    assert charges(path, "client")
    assert not charges(path, "example")
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == (before, files)
    with pytest.raises(OSError, match=r"gone\.db"):
        cost_of_looking([[tmp_path / "gone.db"]], "client", DELTA, TRIES)
