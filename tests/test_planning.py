"""Planning against closed forms, brute force, Opacus and dp-accounting; and that looking never changes anything."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from scipy.stats import norm

from fedsim import planning, planning_ledger
from fedsim.cli import main
from fedsim.console import as_lines
from fedsim.errors import BadInput, FedsimError
from fedsim.planning import Question, answer, most_steps
from fedsim.planning_ledger import plan_ledger
from fedsim.privacy import accounting_opacus
from fedsim.privacy.accounting import AccountantsDisagree, epsilon
from fedsim.privacy.calibration import UNLIMITED
from fedsim.privacy.events import Event, Relation, Sampling, compose
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.plan import Charge

STEP, ROUND = Event(1.1, 0.05, "poisson"), Event(2.0, 0.1, "poisson")
PROMISED = ["epsilon", "delta", "accountant", "rdp", "prv", "relation", "sampling"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``call("--rate", "0.1")`` is ``fedsim plan --rate 0.1`` in this process: exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fedsim", "plan", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def asked(call: Callable[..., tuple[int, str, str]], *arguments: str) -> dict[str, Any]:
    code, out, err = call(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


# Epsilon


def test_the_command_line_answers_without_importing_torch():
    script = (
        "import sys; from fedsim.cli import main; sys.argv = ['fedsim', 'plan', *'--rate .01 --noise 1.1 --steps 1000"
        " --json'.split()]; main(); print([name for name in ('torch', 'flwr', 'opacus') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    *lines, imported = done.stdout.splitlines()
    assert (imported, done.stderr) == ("[]", "")
    result = json.loads("\n".join(lines))
    assert list(result) == PROMISED
    assert result["prv"] == pytest.approx(by_opacus(0.01, 1.1, 1000, 1e-5), rel=1e-8)


def by_opacus(rate: float, noise: float, steps: int, delta: float) -> float:
    """Opacus imported as its authors meant it."""
    import warnings

    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.005, 1.0, 1500), (0.2, 3.0, 40), (0.001, 0.7, 9000)])
def test_the_prv_number_is_that_of_opacus(rate, noise, steps):
    accountant = accounting_opacus._alone().PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    question = Question(1e-6, steps=steps, rate=rate, noise_multiplier=noise)
    result = answer(question)
    assert result["prv"] == pytest.approx(by_opacus(rate, noise, steps, 1e-6), rel=1e-8)
    assert result["epsilon"] <= result["prv"] <= result["epsilon"] + 0.021
    assert (result["accountant"], list(result)) == ("pld", PROMISED)


def test_where_opacus_looks_different_it_is_imported_as_usual(monkeypatch):
    from opacus.accountants import PRVAccountant

    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    monkeypatch.delitem(sys.modules, "opacus.accountants")
    monkeypatch.setattr(accounting_opacus, "_alone", lambda: (_ for _ in ()).throw(ImportError("moved")))
    accounting_opacus.prv_accountant.cache_clear()
    assert accounting_opacus.prv_accountant().mechanism() == PRVAccountant.mechanism()
    accounting_opacus.prv_accountant.cache_clear()


def test_taking_everybody_is_the_gaussian_mechanism_in_closed_form(call):
    """Balle and Wang 2018, theorem 8, at noise 3 over 4 steps: one release at distance 2/3."""
    for arguments in (("--rate", "1"), ("--sampling", "none"), ("--rate", "1", "--population", "50")):
        result = asked(call, *arguments, "--noise", "3", "--steps", "4")
        shift, found = 2 / 3, result["epsilon"]
        delta = norm.cdf(shift / 2 - found / shift) - math.exp(found) * norm.cdf(-shift / 2 - found / shift)
        assert delta == pytest.approx(1e-5, rel=1e-6)
        assert (result["accountant"], result["prv"]) == ("pld", None)


def test_fixed_cohorts_are_accounted_by_distributions_under_replace_one(call):
    """The promised keys; the bound is below the Renyi one, and above the exact cost of the whole population's rate."""
    result = asked(
        call, "--sampling", "fixed", "--population", "1000", "--cohort", "10", "--noise", "2", "--steps", "100"
    )
    assert list(result) == PROMISED
    assert (result["accountant"], result["relation"], result["prv"]) == ("pld", "replace-one", None)
    poisson = asked(call, "--rate", "0.01", "--relation", "replace-one", "--noise", "2", "--steps", "100")
    assert poisson["epsilon"] < result["epsilon"] < result["rdp"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--rate", "0.1", "--noise", "1", "--steps", "0"], 0.0),
        (["--rate", "0", "--noise", "1", "--steps", "10"], 0.0),
        (["--rate", "0", "--noise", "0", "--steps", "10"], 0.0),
        (["--rate", "0.1", "--noise", "0", "--steps", "10"], "inf"),
        (["--sampling", "none", "--noise", "0", "--steps", "1"], "inf"),
        (["--rate", "0.01", "--noise", "50", "--steps", "1", "--delta", "0.5"], 0.0),
        (["--rate", "0.01", "--noise", "1e6", "--steps", "5"], 0.0),
    ],
)
def test_the_ends_of_the_range(arguments, expected, call):
    result = asked(call, *arguments)
    assert result["epsilon"] == expected
    code, out, _ = call(*arguments)
    assert code == 0
    assert f"epsilon: {'inf' if expected == 'inf' else 0}" in out


@pytest.mark.parametrize("sampling", ["poisson", "fixed"])
@pytest.mark.parametrize("steps", [1, 10**5, UNLIMITED])
def test_any_setting_has_an_answer_that_is_not_negative(sampling, steps):
    for noise in (planning.LEAST_NOISE, 0.02, 30.0, 1e9):
        for rate in (1e-8, 0.03, 0.999):
            if steps > 10**5 and noise > 1:
                continue  # a matter of seconds, and of the accountant
            result = answer(Question(1e-5, steps=steps, rate=rate, noise_multiplier=noise, sampling=sampling))
            assert 0 <= result["epsilon"] <= result["rdp"] + 1e-3
            if result["epsilon"] >= planning.VACUOUS:
                assert (result["accountant"], result["epsilon"]) == ("rdp", result["rdp"])


def test_accountants_that_disagree_give_no_number(call, monkeypatch):
    def disagree(*_: object) -> None:
        raise AccountantsDisagree("PLD 1, RDP 0.5")

    monkeypatch.setattr(planning, "cross_check", disagree)
    code, out, err = call("--rate", "0.1", "--noise", "1", "--steps", "10")
    assert (code, out) == (1, "")
    assert "contradict" in err
    assert "PLD 1, RDP 0.5" in err


# Noise and steps from a target


def test_the_noise_for_a_target_is_the_least(call):
    result = asked(call, "--rate", "0.01", "--steps", "1000", "--target-epsilon", "2", "--delta", "1e-6")
    assert list(result) == ["noise_multiplier", *PROMISED]
    noise = result["noise_multiplier"]
    assert result["epsilon"] == epsilon(compose([(Event(noise, 0.01, "poisson"), 1000)]), 1e-6) <= 2
    assert epsilon(compose([(Event(noise * 0.999, 0.01, "poisson"), 1000)]), 1e-6) > 2
    assert asked(call, "--rate", "0.01", "--steps", "0", "--target-epsilon", "2")["noise_multiplier"] == 0


@pytest.mark.parametrize(
    ("event", "target", "delta"),
    [
        (Event(1.0, 0.02, "poisson"), 1.5, 1e-5),
        (Event(1.5, 0.1, "poisson"), 0.3, 1e-5),
        (Event(2.0, 0.05, "poisson", "replace-one"), 2.0, 1e-6),
        (Event(2.0, 0.05, "fixed", "replace-one"), 2.0, 1e-6),
        (Event(5.0), 1.0, 1e-4),
        (Event(0.5), 0.1, 1e-5),
    ],
)
def test_the_number_of_steps_is_what_counting_up_finds(event, target, delta):
    found = most_steps(lambda count: compose([(event, count)]), target, delta)
    count = next(count for count in range(10_000) if epsilon(compose([(event, count + 1)]), delta) > target)
    assert found == count


@pytest.mark.parametrize(("rate", "noise", "target"), [(1e-3, 1.2, 2.0), (0.9, 300.0, 3.0), (1.0, 1e3, 5.0)])
def test_many_steps_are_found_to_one_in_ten_thousand(rate, noise, target):
    event = Event(noise, rate, "poisson")
    found = most_steps(lambda count: compose([(event, count)]), target, 1e-6)
    assert found > 10_000
    assert epsilon(compose([(event, found)]), 1e-6) <= target
    assert epsilon(compose([(event, found + found // 10_000)]), 1e-6) > target


def test_steps_on_the_command_line(call):
    result = asked(call, "--rate", "0.01", "--noise", "1.1", "--target-epsilon", "2")
    assert list(result) == ["steps", *PROMISED]
    one_more = asked(call, "--rate", "0.01", "--noise", "1.1", "--steps", str(result["steps"] + 1))
    assert result["epsilon"] <= 2 < one_more["epsilon"]
    none = asked(call, "--rate", "0.1", "--noise", "0", "--target-epsilon", "2")
    assert (none["steps"], none["epsilon"]) == (0, 0)
    free = asked(call, "--rate", "0", "--noise", "1", "--target-epsilon", "2")
    assert (free["steps"], free["epsilon"]) == (UNLIMITED, 0)


# The table


def test_a_table_shows_the_epsilon_on_the_way(call):
    result = asked(call, "--rate", "0.01", "--noise", "1.1", "--steps", "95", "--table")
    assert list(result) == [*PROMISED, "table"]
    assert [row["steps"] for row in result["table"]] == [10, 19, 29, 38, 48, 57, 67, 76, 86, 95]
    assert result["table"][-1]["epsilon"] == result["epsilon"]
    for row in result["table"]:
        assert row["epsilon"] == epsilon(compose([(Event(1.1, 0.01, "poisson"), row["steps"])]), 1e-5)


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (["--steps", "12", "--table", "4"], [3, 6, 9, 12]),
        (["--table", "4", "--steps", "12"], [3, 6, 9, 12]),
        (["--steps", "3", "--table"], [1, 2, 3]),
        (["--table", "--steps", "3"], [1, 2, 3]),
        (["--table", "--steps", "0"], []),
    ],
)
def test_the_number_of_rows_may_be_left_out(arguments, steps, call):
    result = asked(call, "--rate", "0.1", "--noise", "2", *arguments)
    assert [row["steps"] for row in result["table"]] == steps


def test_a_table_goes_with_every_question_and_reads_as_one(call):
    assert len(asked(call, "--rate", "0.1", "--noise", "2", "--target-epsilon", "1", "--table")["table"]) == 10
    assert len(asked(call, "--rate", "0.1", "--steps", "20", "--target-epsilon", "1", "--table", "5")["table"]) == 5
    _, out, _ = call("--rate", "0.1", "--noise", "0", "--steps", "100", "--table", "2")
    assert out.splitlines()[-4:] == ["table:", "  steps  epsilon", "     50      inf", "    100      inf"]


def test_lines_for_a_person():
    values = {"a": None, "b": 1 / 3, "c": [{"d": 1, "e": {"f": "g"}}], "h": ["x", "y"], "i": [], "j": {"k": math.inf}}
    assert as_lines(values).splitlines() == [
        "a: none",
        "b: 0.333333",
        "c:",
        "  d: 1",
        "  e:",
        "    f: g",
        "h: x, y",
        "j:",
        "  k: inf",
    ]


# What has no answer


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "SCENARIO"),
        ("--rate 0.1 --steps 10", "exactly one of --noise and --target-epsilon"),
        ("--rate 0.1 --noise 1", "--steps"),
        ("--rate 0.1 --target-epsilon 1", "--steps"),
        ("--rate 0.1 --noise 1 --target-epsilon 1 --steps 1", "exactly one"),
        *((f"--rate {value} --noise 1 --steps 10", "rate") for value in ("nan", "inf", "-0.1", "1.1")),
        *((f"--rate 0.1 --noise {value} --steps 10", f"--noise {value}") for value in ("nan", "inf", "-inf", "-1.0")),
        *((f"--rate 0.1 --steps 1 --target-epsilon {x}", "--target-epsilon") for x in ("nan", "inf", "-1", "0", "1e5")),
        *((f"--rate 0.1 --noise 1 --steps 1 --delta {x}", "--delta") for x in ("nan", "inf", "-1", "0", "1", "1e-30")),
        ("--rate 0.1 --noise 1e-9 --steps 10", "--noise 1e-09"),
        ("--rate 0.1 --noise 1 --steps -1", "--steps -1"),
        ("--rate 0.1 --noise 1 --steps 99999999999999", "--steps 99999999999999"),
        ("--rate 0.1 --noise 1 --steps 1 --delta 0.1 --population 10", "--delta 0.1: must be below 1 / population"),
        ("--rate 0.1 --noise 1 --steps 1 --population 0", "--population 0"),
        ("--rate 0.1 --noise 1 --steps 1 --population -5", "--population -5"),
        ("--noise 1 --steps 1", "--rate"),
        ("--noise 1 --steps 1 --population 9 --cohort 0", "--cohort 0"),
        ("--noise 1 --steps 1 --population 9 --cohort 10", "--cohort 10"),
        ("--noise 1 --steps 1 --cohort 10", "--population"),
        ("--noise 1 --steps 1 --population 9 --cohort 3 --rate 0.1", "--rate 0.1"),
        ("--noise 1 --steps 1 --sampling none --rate 0.1", "--rate 0.1"),
        ("--noise 1 --steps 1 --sampling none --population 9 --cohort 3", "--cohort 3"),
        ("--noise 1 --steps 1 --rate 0.1 --sampling shuffled", "--sampling shuffled"),
        ("--noise 1 --steps 1 --rate 0.1 --relation zero-out", "--relation zero-out"),
        ("--noise 1 --steps 1 --rate 0.1 --sampling fixed --relation add-remove", "--sampling fixed"),
        *((f"--rate 0.1 --noise 1 --steps 9 --table {rows}", f"--table {rows}") for rows in (0, -3, 1001)),
        ("--rate 0.1 --noise 1 --steps 9 --budget-epsilon 1", "--ledger"),
        ("--rate 0.1 --noise 1 --steps 9 --export x.json", "--ledger"),
        ("--set rounds=3", "--set rounds=3"),
        ("x.toml --steps 3", "--steps 3"),
        ("x.toml --delta 1e-5", "--delta"),
        ("x.toml --ledger y.db", "--ledger y.db"),
        ("--ledger y.db --noise 3", "--noise 3"),
        ("--ledger y.db --table", "--table 10"),
        ("--ledger y.db", "no ledger at y.db"),
        ("--ledger . ", "no ledger at ."),
        ("--ledger y.db --delta 2", "--delta 2"),
        ("--ledger y.db --budget-epsilon 0", "--budget-epsilon 0"),
        ("--ledger y.db --budget-epsilon nan", "--budget-epsilon nan"),
    ],
)
def test_an_impossible_question_is_refused(arguments, words, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments.split())
    assert (code, out) == (2, "")
    assert words in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_what_no_noise_reaches_is_refused():
    """Calibration stops at noise 1e7, which is too little for two thousand million steps at this target."""
    with pytest.raises(BadInput, match="beyond what the accountants can compute"):
        answer(Question(1e-20, steps=UNLIMITED, sampling="none", target_epsilon=1e-9))


# A ledger


def listing(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def ids(*clients: int) -> np.ndarray:
    return np.array(clients, np.int64)


@pytest.fixture
def ledger_file(tmp_path: Path) -> Path:
    """Two runs over five clients: steps at clients 0, 1, 1 and 3, then more noise at client 1; rounds for everybody."""
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "ledger.db"
    first = Ledger(path, "five people", 5, "first")
    first.charge(1, [Charge("example", STEP, 10, ids(0, 1)), Charge("client", ROUND, 1, None)])
    first.charge(2, [Charge("example", STEP, 10, ids(1, 3))])
    first.close()
    second = Ledger(path, "five people", 5, "second")
    second.charge(1, [Charge("example", Event(3.0, 0.05, "poisson"), 7, ids(1))])
    second.close()
    return path


def test_what_a_ledger_has_spent(ledger_file, call):
    before = listing(ledger_file.parent)
    result = asked(call, "--ledger", str(ledger_file), "--delta", "1e-4")
    assert listing(ledger_file.parent) == before
    once = epsilon(compose([(STEP, 10)]), 1e-4)
    most = epsilon(compose([(STEP, 20), (Event(3.0, 0.05, "poisson"), 7)]), 1e-4)
    assert result["population"] == "five people"
    assert result["clients"] == 5
    assert result["units"]["example"] == {
        "epsilon": most,
        "delta": 1e-4,
        "clients": {"max": most, "median": once, "min": 0.0},
        "spenders": 3,
        "events": 27,
        "runs": ["first", "second"],
    }
    client = result["units"]["client"]
    assert client["epsilon"] == client["clients"]["min"] == epsilon(compose([(ROUND, 1)]), 1e-4)
    assert (client["spenders"], client["runs"]) == (5, ["first"])
    _, out, _ = call("--ledger", str(ledger_file), "--delta", "1e-4")
    assert "runs: first, second" in out


def test_the_median_is_between_the_middle_two(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db", "four", 4, "run")
    ledger.charge(1, [Charge("example", STEP, 5, ids(0)), Charge("example", STEP, 9, ids(1))])
    ledger.charge(2, [Charge("example", Event(0.0), 1, ids(2))])
    ledger.close()
    low, high = (epsilon(compose([(STEP, steps)]), 1e-5) for steps in (5, 9))
    clients = plan_ledger(tmp_path / "ledger.db", 1e-5)["units"]["example"]["clients"]
    assert clients == {"max": math.inf, "median": (low + high) / 2, "min": 0.0}


def test_a_look_at_a_ledger_in_use_sees_every_charge_and_touches_nothing(tmp_path):
    """The charges are in the write-ahead log only, and the run goes on charging afterwards."""
    folder = tmp_path / "run"
    folder.mkdir()
    ledger = Ledger(folder / "ledger.db", "two", 2, "run")
    for round_ in (1, 2, 3):
        ledger.charge(round_, [Charge("client", ROUND, 1, None)])
        before = listing(folder)
        assert set(before) == {"ledger.db", "ledger.db-wal", "ledger.db-shm"}
        assert plan_ledger(folder / "ledger.db", 1e-5)["units"]["client"]["events"] == round_
        assert listing(folder) == before
    ledger.close()


def test_a_ledger_that_never_rests_is_not_half_read(ledger_file, monkeypatch):
    copy = planning_ledger.shutil.copyfile

    def write_meanwhile(source: Path, target: Path) -> None:
        copy(source, target)
        with open(source, "ab") as file:
            file.write(b"\0")

    monkeypatch.setattr(planning_ledger.shutil, "copyfile", write_meanwhile)
    monkeypatch.setattr(planning_ledger, "_PAUSE_SECONDS", 0.0)
    with pytest.raises(FedsimError, match="being written all the time"):
        plan_ledger(ledger_file, 1e-5)


@pytest.mark.parametrize("budget", [0.5, 2.0, 6.0])
def test_what_a_budget_leaves_is_what_adding_steps_finds(ledger_file, budget, call):
    result = asked(call, "--ledger", str(ledger_file), "--delta", "1e-4", "--budget-epsilon", str(budget))
    most = [(STEP, 20), (Event(3.0, 0.05, "poisson"), 7)]
    left = result["units"]["example"]["left"]
    assert left["mechanism"] == {"noise_multiplier": 3.0, "rate": 0.05, "sampling": "poisson", "relation": "add-remove"}
    costs = [
        epsilon(compose([*most, (Event(3.0, 0.05, "poisson"), steps)]), 1e-4)
        for steps in (0, left["steps"], left["steps"] + 1)
    ]
    if costs[0] > budget:
        assert (left["steps"], left["epsilon"]) == (0, costs[0])
    else:
        assert left["epsilon"] == costs[1] <= budget < costs[2]
    rounds = result["units"]["client"]["left"]["steps"]
    assert epsilon(compose([(ROUND, 1 + rounds)]), 1e-4) <= budget < epsilon(compose([(ROUND, 2 + rounds)]), 1e-4)


@contextmanager
def one_client(path: Path, *events: Event) -> Any:
    ledger = Ledger(path, "one", 1, "run")
    for round_, event in enumerate(events):
        ledger.charge(round_, [Charge("client", event, 3, None)])
    ledger.close()
    yield path


@pytest.mark.parametrize(
    ("relation", "sampling", "neighbours"),
    [
        ("add-remove", "poisson", "ADD_OR_REMOVE_ONE"),
        ("replace-one", "poisson", "REPLACE_ONE"),
        ("add-remove", "none", "ADD_OR_REMOVE_ONE"),
    ],
)
def test_an_export_lets_dp_accounting_recompute_the_number(
    tmp_path: Path, relation: Relation, sampling: Sampling, neighbours: str
) -> None:
    rates = (0.1, 0.03) if sampling == "poisson" else (1.0, 1.0)
    events = [Event(noise, rate, sampling, relation) for noise, rate in zip((1.5, 2.5), rates, strict=True)]
    with one_client(tmp_path / "ledger.db", *events) as path:
        result = plan_ledger(path, 1e-5, export=tmp_path / "events.json")
    exported = json.loads((tmp_path / "events.json").read_text())
    (group,) = exported["groups"]
    assert (exported["delta"], group["unit"], group["clients"]) == (1e-5, "client", 1)
    assert group["epsilon"] == result["units"]["client"]["epsilon"]
    event = eval(group["dp_event"], vars(dp_accounting) | vars(dp_accounting.dp_event))
    accountant = dp_accounting.pld.PLDAccountant(dp_accounting.NeighboringRelation[neighbours])
    assert accountant.compose(event).get_epsilon(1e-5) == pytest.approx(group["epsilon"], rel=2e-3)
    rows = [(Event(**{k: v for k, v in row.items() if k != "count"}), row["count"]) for row in group["composition"]]
    assert epsilon(compose(rows), 1e-5) == group["epsilon"]


def test_an_export_names_groups_without_their_members(ledger_file, call, tmp_path):
    target = tmp_path / "events.json"
    before = listing(ledger_file.parent)
    assert asked(call, "--ledger", str(ledger_file), "--export", str(target))["export"] == str(target)
    assert listing(ledger_file.parent) == before
    groups = json.loads(target.read_text())["groups"]
    assert sorted((group["unit"], group["clients"]) for group in groups) == [
        ("client", 5),
        ("example", 1),
        ("example", 2),
        ("example", 2),
    ]
    assert all(set(group) == {"unit", "clients", "epsilon", "composition", "dp_event"} for group in groups)
    code, _, err = call("--ledger", str(ledger_file), "--export", str(target))
    assert code == 2
    assert "exists already" in err
    code, _, err = call("--ledger", str(ledger_file), "--export", str(tmp_path / "no" / "where.json"))
    assert code == 2
    assert "cannot be written" in err


def test_an_export_without_noise_says_inf(tmp_path):
    with one_client(tmp_path / "ledger.db", Event(0.0)) as path:
        plan_ledger(path, 1e-5, export=tmp_path / "events.json")
    assert json.loads((tmp_path / "events.json").read_text())["groups"][0]["epsilon"] == "inf"


def test_a_ledger_that_cannot_be_accounted_is_refused(tmp_path, call):
    with one_client(tmp_path / "mixed.db", Event(1.0), Event(1.0, relation="replace-one")) as path:
        code, _, err = call("--ledger", str(path))
    assert code == 2
    assert "relation" in err
    for name, content in (("empty.db", b""), ("text.db", b"not a database " * 50)):
        (tmp_path / name).write_bytes(content)
        code, _, err = call("--ledger", str(tmp_path / name))
        assert code == 2
        assert "not a privacy ledger" in err


def test_the_delta_of_client_level_privacy_is_below_one_over_the_clients(ledger_file, call):
    code, _, err = call("--ledger", str(ledger_file), "--delta", "0.2")
    assert code == 2
    assert "1 / population" in err
