"""What a scenario is said to spend, against brute force over rounds, rates and noise, and hand-made ledgers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

import fedsim
from fedsim.cli import main
from fedsim.data.digits import Digits
from fedsim.errors import BadInput
from fedsim.holdings import load_holdings
from fedsim.loading import parse_scenario
from fedsim.planning_scenario import foresee
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.plan import Charge
from tests.conftest import SMALL

BASE = "rounds = 12\n[population]\nclients = 40\n[cohort]\nsampling = { kind = 'poisson', rate = 0.25 }\n"
CLIENT = BASE + "[privacy.client]\nclip_norm = 1.0\nnoise_multiplier = 1.2\ndelta = 1e-3\n"
RATED = (
    BASE + "[privacy.example]\nclip_norm = 1.0\nnoise_multiplier = 2.0\ndelta = 1e-4\nsampling_rate = 0.1\n"
    "[algorithm]\nname = 'fedavg'\nlocal = { steps = 3 }\n"
)
ROUND, STEP = Event(1.2, 0.25, "poisson"), Event(2.0, 0.1, "poisson")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDSIM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr(Digits, "load", refuse)


def planned(text: str, **options: Any) -> dict[str, Any]:
    (unit,) = foresee(parse_scenario(text, "planned"), **options)["privacy"]
    return unit


def cost(event: Event, count: int, delta: float) -> float:
    return epsilon(compose([(event, count)]), delta)


def test_a_plan_loads_nothing_that_trains():
    slow = ("torch._dynamo", "opacus", "sklearn", "fedsim.federation")
    text = (
        'partition = { kind = "dirichlet" }\n[privacy.example]\nnoise_multiplier = 1.0\nclip_norm = 1.0\ndelta = 1e-4'
    )
    program = (
        "import sys, fedsim\n"
        f"plan = fedsim.plan(fedsim.parse_scenario({BASE.replace('[cohort]', text + chr(10) + '[cohort]')!r}, 's'))\n"
        f"print(plan.facts['privacy'][0]['unit'], [name for name in {slow} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "example []\n"


@pytest.mark.usefixtures("no_data")
def test_client_level_epsilon_over_the_rounds():
    unit = planned(CLIENT, rows=4)
    assert [(row["round"], row["participations"]) for row in unit["table"]] == [(3, 3), (6, 6), (9, 9), (12, 12)]
    assert [row["epsilon"] for row in unit["table"]] == [cost(ROUND, count, 1e-3) for count in (3, 6, 9, 12)]
    assert unit["epsilon"] == unit["clients"]["min"] == unit["table"][-1]["epsilon"]
    assert "rounds_within_budget" not in unit


@pytest.mark.parametrize(
    ("privacy", "budget"),
    [
        ("[privacy.example]\nclip_norm = 0.7\nnoise_multiplier = 1.1\ndelta = 1e-4\nbudget = 4.0\n", 4.0),
        ("[privacy.client]\nclip_norm = 0.4\nnoise_multiplier = 1.2\ndelta = 1e-2\nbudget = 3.3\n", 3.3),
        (
            "[privacy.client]\nclip_norm = 0.4\nnoise_multiplier = 1.2\ndelta = 1e-2\nbudget = 1.5\n"
            "[cohort]\nsampling = { kind = 'poisson', rate = 0.5 }\n",
            1.5,
        ),
    ],
)
def test_a_run_that_its_budget_ends_spends_what_was_predicted(tmp_path, privacy, budget):
    scenario = parse_scenario(SMALL + privacy, "budgeted")
    (unit,) = foresee(scenario)["privacy"]
    result = fedsim.run(scenario, tmp_path / "run")
    spent = result.privacy[0]
    assert (result.summary["status"], result.summary["rounds"]) == ("budget_exhausted", unit["rounds_within_budget"])
    assert unit["epsilon"] == pytest.approx(spent["epsilon"])
    assert unit["clients"] == pytest.approx(spent["clients"])
    assert unit["epsilon"] < budget


@pytest.mark.usefixtures("no_data")
def test_the_rounds_of_a_budget_are_what_counting_up_finds():
    unit = planned(CLIENT + "budget = 2.0\n", rows=12)
    fitting = [count for count in range(13) if cost(ROUND, count, 1e-3) <= 2.0]
    assert 0 < fitting[-1] < 12
    assert unit["rounds_within_budget"] == fitting[-1]
    assert [row["within_budget"] for row in unit["table"]] == [row["round"] <= fitting[-1] for row in unit["table"]]
    assert unit["epsilon"] == cost(ROUND, fitting[-1], 1e-3)  # then the run ends


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize("target", [0.7, 1.5])
def test_what_meets_a_target_is_the_least_noise_and_the_most_rounds_and_clients(target):
    found = planned(CLIENT, rows=1, target_epsilon=target)["target"]
    noise, rounds, rate = found["noise_multiplier"], found["rounds"], found["cohort"]["rate"]
    assert cost(Event(noise, 0.25, "poisson"), 12, 1e-3) <= target
    assert cost(Event(noise * 0.999, 0.25, "poisson"), 12, 1e-3) > target
    assert cost(ROUND, rounds, 1e-3) <= target < cost(ROUND, rounds + 1, 1e-3)
    assert cost(Event(1.2, rate, "poisson"), 12, 1e-3) <= target
    assert cost(Event(1.2, rate * 1.002, "poisson"), 12, 1e-3) > target


@pytest.mark.usefixtures("no_data")
def test_a_cohort_of_fixed_size_that_meets_a_target():
    text = CLIENT.replace("{ kind = 'poisson', rate = 0.25 }", "{ kind = 'fixed', size = 10 }")
    found = planned(text + "relation = 'replace-one'\n", rows=1, target_epsilon=2.0)["target"]["cohort"]
    sizes = [size for size in range(1, 41) if cost(Event(1.2, size / 40, "fixed", "replace-one"), 12, 1e-3) <= 2.0]
    assert found == ({"kind": "fixed", "size": sizes[-1]} if sizes else None)
    assert planned(text, rows=1, target_epsilon=0.5)["target"]["cohort"] is None  # zero-out: nothing is amplified


@pytest.mark.usefixtures("no_data")
def test_example_level_counts_the_rounds_of_a_client_that_is_drawn_often():
    unit = planned(RATED, rows=3)
    for row in unit["table"]:
        often = next(k for k in range(row["round"] + 1) if binom.cdf(k, row["round"], 0.25) >= 0.999)
        assert row["participations"] == often
        assert row["epsilon"] == cost(STEP, 3 * often, 1e-4)
    notes = foresee(parse_scenario(RATED, "planned"))["notes"]
    assert any("was not checked" in note for note in notes)


def test_clients_of_different_sizes_spend_differently():
    text = RATED.replace("sampling_rate = 0.1\n", "").replace("{ steps = 3 }", "{ steps = 3, batch_size = 8 }")
    text = text.replace("clients = 40", "clients = 5\npartition = { kind = 'quantity_skew' }")
    scenario = parse_scenario(text, "planned")
    sizes = load_holdings(scenario).population.sizes
    (unit,) = foresee(scenario, 1)["privacy"]
    times = unit["participations"]
    values = sorted(cost(Event(2.0, min(1.0, 8 / n), "poisson"), 3 * times, 1e-4) for n in sizes.tolist())
    assert len(set(values)) == 5
    assert unit["clients"] == {"max": values[-1], "median": values[2], "min": values[0]}
    assert unit["epsilon"] == values[-1]


def shared(tmp_path: Path, text: str = CLIENT) -> tuple[str, Path]:
    """The scenario with a ledger that it shares, and the ledger's file."""
    file = tmp_path / "shared.db"
    return text + f"[privacy]\nledger = '{file}'\nrandomness = 'secure'\n", file


def charged(text: str, file: Path, *charges: Charge) -> None:
    population = load_holdings(parse_scenario(text, "planned")).population
    ledger = Ledger(file, population.digest(), len(population), "earlier")
    ledger.charge(1, list(charges))
    ledger.close()


def test_what_a_shared_ledger_holds_is_counted(tmp_path):
    text, file = shared(tmp_path, CLIENT + "budget = 3.5\n")
    alone = planned(text)
    charged(text, file, Charge("client", Event(1.0, 0.25, "poisson"), 4, np.array([3])))
    before = file.read_bytes()
    unit = planned(text, target_epsilon=2.8)
    history = (Event(1.0, 0.25, "poisson"), 4)
    spent = epsilon(compose([history]), 1e-3)
    assert unit["spent_before"] == spent
    assert "spent_before" not in alone
    rows = [epsilon(compose([history, (ROUND, count)]), 1e-3) for count in range(13)]
    assert unit["rounds_within_budget"] == max(count for count in range(13) if rows[count] <= 3.5)
    assert unit["rounds_within_budget"] < alone["rounds_within_budget"]
    last = unit["rounds_within_budget"]
    others = cost(ROUND, last, 1e-3)
    assert unit["clients"] == {"max": rows[last], "median": others, "min": others}
    noise = unit["target"]["noise_multiplier"]
    assert epsilon(compose([history, (Event(noise, 0.25, "poisson"), 12)]), 1e-3) <= 2.8
    assert epsilon(compose([history, (Event(noise * 0.999, 0.25, "poisson"), 12)]), 1e-3) > 2.8
    assert file.read_bytes() == before


def test_a_ledger_that_is_spent_leaves_nothing(tmp_path):
    text, file = shared(tmp_path, CLIENT + "budget = 3.0\n")
    charged(text, file, Charge("client", Event(0.5, 0.25, "poisson"), 50, None))
    unit = planned(text, target_epsilon=3.0)
    assert unit["rounds_within_budget"] == 0
    assert unit["target"] == {"epsilon": 3.0, "noise_multiplier": None, "rounds": 0, "cohort": None}
    assert unit["epsilon"] == unit["spent_before"] > 3.0


def test_a_ledger_of_others_is_refused(tmp_path):
    text, file = shared(tmp_path)
    Ledger(file, "somebody else", 40, "earlier").close()
    with pytest.raises(BadInput, match="another population"):
        planned(text)
    file.unlink()
    charged(text, file, Charge("client", Event(1.0, 0.25, "poisson", "replace-one"), 1, None))
    with pytest.raises(BadInput, match="replace-one, which do not compose with this run's add-remove"):
        planned(text)


def test_without_privacy_it_is_said_to_be_none():
    unit = planned(BASE)
    assert (unit["unit"], unit["epsilon"]) == ("none", math.inf)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["fedsim", "plan", *arguments])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_on_the_command_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "x.toml"
    file.write_text(CLIENT)
    assert run(monkeypatch, str(file), "--table", "3", "--target-epsilon", "1", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert any("Any one of what stands under target is enough" in note for note in plan["notes"])
    (unit,) = plan["privacy"]
    assert [row["round"] for row in unit["table"]] == [4, 8, 12]
    assert unit["target"]["epsilon"] == 1
    for arguments, words in (
        (["--table", "0"], "--table 0"),
        (["--target-epsilon", "-1"], "--target-epsilon -1"),
        (["--rate", "0.1"], "--rate 0.1"),
        (["--steps", "9"], "--set rounds=9"),
        (["--set", "privacy.client.delta=0.5"], "privacy.client.delta = 0.5"),
        (["--set", "cohort.sampling={kind='fixed',size=41}"], "cohort.sampling.size = 41"),
        (["--set", "privacy.client.noise_multiplier=1e-5"], "privacy.client.noise_multiplier"),
    ):
        assert run(monkeypatch, str(file), *arguments) == 2
        out, err = capsys.readouterr()
        assert (out, words in err) == ("", True), err
