"""Sweep files: what they mean as settings and scenarios, and what is refused before anything runs."""

from __future__ import annotations

import itertools
import math
import sys
import tomllib

import numpy as np
import pytest
from scipy.stats import kstest

import fedsim
from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.loading import load_scenario
from fedsim.sweeps.preparing import prepared
from fedsim.sweeps.search import PROPOSERS, random_values
from fedsim.sweeps.settings import load_sweep
from fedsim.sweeps.space import Choices, Range, combinations
from fedsim.sweeps.trials import distinct, scenario_of, tables_of

ALPHA = 1e-4  # the false-alarm rate of each statistical test; its draws are seeded, so it fails always or never


def trials_of(file):
    sweep = load_sweep(file)
    return sweep, PROPOSERS[sweep.search.method](sweep, [], {})


def test_a_grid_is_the_product_of_its_choices_and_stepped_ranges(sweep_file):
    file = sweep_file("", "rounds = { low = 2, high = 6, step = 2 }\nalgorithm.local.learning_rate = [0.1, 0.3]")
    _, trials = trials_of(file)
    expected = [
        {"rounds": rounds, "algorithm.local.learning_rate": rate}
        for rounds, rate in itertools.product((2, 4, 6), (0.1, 0.3))
    ]
    assert [trial.values for trial in trials] == expected
    assert [trial.number for trial in trials] == list(range(6))


def test_steps_of_a_range_are_what_a_person_would_write():
    assert Range(0.1, 0.5, step=0.1).points() == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert Range(1, 4).points() == (1, 2, 3, 4)
    assert Range(1.0, 2.0, step=0.4).points() == (1.0, 1.4, 1.8)


def test_quoted_and_nested_keys_mean_the_same(sweep_file):
    first, _ = trials_of(sweep_file("", '"privacy.example.clip_norm" = [0.5, 1.0]'))
    second, _ = trials_of(sweep_file("", "[space.privacy.example]\nclip_norm = [0.5, 1.0]"))
    assert first == second
    assert first.space == {"privacy.example.clip_norm": Choices((0.5, 1.0))}


def test_a_setting_is_the_scenario_with_its_values_set_by_hand(sweep_file, tmp_path):
    space = 'population.partition = [{ kind = "iid" }, { kind = "shards", shards_per_client = 2 }]\nrounds = [7]'
    sweep, trials = trials_of(sweep_file("", space))
    partition = 'population.partition={kind="shards", shards_per_client=2}'
    by_hand = load_scenario(tmp_path / "small.toml", [partition, "rounds=7", "seed=5", "engine.workers=2"])
    assert scenario_of(sweep, trials[1], seed=5, threads=2) == by_hand


def test_an_infinite_target_epsilon_is_the_scenario_without_the_units_section(sweep_file):
    sweep, trials = trials_of(sweep_file("", "privacy.example.target_epsilon = [2.0, inf]"))
    private, open_ = (scenario_of(sweep, trial, 0, 1) for trial in trials)
    assert private.privacy.example.target_epsilon == 2.0
    assert open_.privacy.example is None
    assert [trial.values["privacy.example.target_epsilon"] for trial in trials] == [2.0, "inf"]


def test_settings_that_differ_only_in_what_is_left_out_are_one(sweep_file):
    space = "privacy.example.target_epsilon = [2.0, inf]\nprivacy.example.clip_norm = [0.5, 1.0, 2.0]"
    _, trials = trials_of(sweep_file("", space))
    assert len(trials) == 4
    assert trials[-1].values == {"privacy.example.target_epsilon": "inf"}
    assert [trial.number for trial in trials] == [0, 1, 2, 3]


def test_the_type_of_the_setting_decides_what_a_range_holds(sweep_file):
    space = "privacy.example.target_epsilon = { low = 1, high = 8, log = true }\nrounds = { low = 2.0, high = 9.0 }"
    sweep = load_sweep(sweep_file('method = "random"\ntrials = 5', space))
    assert sweep.space["privacy.example.target_epsilon"] == Range(1.0, 8.0, log=True)
    drawn = [random_values(sweep, number) for number in range(50)]
    assert len({each["privacy.example.target_epsilon"] for each in drawn}) == 50
    assert {type(each["rounds"]) for each in drawn} == {int}


def test_a_setting_that_cannot_be_set_up_is_no_reason_to_refuse_the_others(sweep_file, monkeypatch):
    def build(scenario):
        if scenario.rounds == 3:
            raise BadInput("no luck")
        return build_federation(scenario)

    monkeypatch.setattr("fedsim.federation.build_federation", build)
    for rounds in ("[3, 2]", "[2, 3]"):
        assert prepared(load_sweep(sweep_file("", f"rounds = {rounds}"))).search.objectives == ("accuracy",)
    with pytest.raises(BadInput, match=r"No setting can be set up; the first, trial 0 \(rounds = 3\): no luck"):
        prepared(load_sweep(sweep_file("", "rounds = [3]")))


def test_a_sweep_is_checked_without_being_run(sweep_file, monkeypatch, capsys):
    file = sweep_file("seeds = [0, 1]\nparallel = 2", "rounds = [1, 2, 3]")
    monkeypatch.setattr(sys, "argv", ["fedsim", "check", str(file)])
    main()
    words = "good. 3 settings x 2 seeds = 6 runs, 2 at once; method grid, objective accuracy, selection private."
    assert words in capsys.readouterr().out
    assert sorted(each.name for each in file.parent.iterdir()) == ["s.toml", "small.toml"]


def test_random_settings_follow_their_distributions(sweep_file):
    space = "a = { low = 1e-4, high = 1e2, log = true }\nb = { low = -1.0, high = 3.0 }\nc = { low = 1, high = 4 }"
    sweep = load_sweep(sweep_file('method = "random"\ntrials = 5', space))
    drawn = [random_values(sweep, number) for number in range(2000)]
    logs = (np.log10([each["a"] for each in drawn]) + 4) / 6
    assert kstest(logs, "uniform").pvalue > ALPHA
    assert kstest((np.array([each["b"] for each in drawn]) + 1) / 4, "uniform").pvalue > ALPHA
    counts = np.bincount([each["c"] for each in drawn], minlength=5)
    assert counts[0] == 0
    assert (abs(counts[1:] - 500) < 5 * math.sqrt(500)).all()


def test_a_random_setting_hangs_on_its_number_and_the_seed_alone(sweep_file):
    space = "rounds = { low = 1, high = 1000 }"
    few = load_sweep(sweep_file('method = "random"\ntrials = 3', space))
    many = load_sweep(sweep_file('method = "random"\ntrials = 30', space))
    other = load_sweep(sweep_file('method = "random"\ntrials = 3\nseed = 1', space))
    first = PROPOSERS["random"](few, [], {})
    assert first == PROPOSERS["random"](many, [], {})[:3]
    assert first != PROPOSERS["random"](other, [], {})


def test_a_random_search_tries_nothing_twice(sweep_file):
    sweep = load_sweep(sweep_file('method = "random"\ntrials = 50', "rounds = [1, 2, 3]\nseedless = [true, false]"))
    assert len(PROPOSERS["random"](sweep, [], {})) == 6


def test_what_is_written_reads_as_the_same_sweep(sweep_file, tmp_path):
    space = "privacy.example.target_epsilon = [2.0, inf]\nrounds = { low = 1, high = 9, step = 2 }"
    sweep = load_sweep(
        sweep_file("seeds = [4, 2]\nhalving = { first_rounds = 2 }", space.splitlines()[0]), ["rounds=8"]
    )
    raw = tomllib.loads(sweep.to_toml())
    assert raw["space"] == {"privacy.example.target_epsilon": [2.0, math.inf]}
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "sweep.toml").write_text(sweep.to_toml())
    import tomli_w

    (folder / "base.toml").write_text(tomli_w.dumps(sweep.base))
    assert load_sweep(folder) == sweep


@pytest.mark.parametrize(
    ("search", "space", "words"),
    [
        ("", "", ["space", "nothing to vary"]),
        ("", "rounds = []", ["space.rounds", "empty"]),
        ("", "rounds = 3", ["space.rounds", "list of choices"]),
        ("", "rounds = [1, 1]", ["space.rounds", "twice"]),
        ("", "rounds = { low = 3, high = 2 }", ["space.rounds", "below"]),
        ("", "rounds = { low = 1, hihg = 2 }", ["space.rounds", "hihg"]),
        ("", "rounds = { low = 0, high = 2, log = true }", ["space.rounds", "above 0"]),
        ("", "seed = [1, 2]", ["space.seed", "sweep.seeds"]),
        ("", "model = [{ name = 'mlp' }]\n", None),
        ("", "privacy.example.clip_norm = { low = 0.1, high = 1.0 }", ["privacy.example.clip_norm", "grid"]),
        ("trials = 3", "rounds = [1]", ["sweep.trials = 3", "leave it out"]),
        ('method = "random"', "rounds = [1]", ["sweep.trials is missing"]),
        ('method = "rendom"', "rounds = [1]", ["sweep.method"]),
        ("sedes = [1]", "rounds = [1]", ["sweep.sedes", "unknown key", "seeds"]),
        ("seeds = []", "rounds = [1]", ["sweep.seeds"]),
        ("seeds = [1, 1]", "rounds = [1]", ["sweep.seeds"]),
        ('objective = ["a", "b", "c"]', "rounds = [1]", ["sweep.objective"]),
        ("halving = { first_rounds = 1 }", "rounds = [1, 2]", ["space.rounds"]),
        ('objective = "acuracy"', "rounds = [1]", ["acuracy", 'did you mean "accuracy"']),
        ("halving = { first_rounds = 3 }", "privacy.example.clip_norm = [1.0]", ["first_rounds = 3", "given up"]),
        ('objective = "seconds"', "rounds = [1]", ["simulated_seconds"]),
        ("", "rounds = [1, 0]", ["trial 1 (rounds = 0)", "rounds = 0"]),
        ("", "rounds.x = [1]", ["rounds is no table"]),
        ("", "privacy.ledger = ['l.db']\nprivacy.randomness = ['secure']", ["privacy.ledger", "hang on which runs"]),
        ("", "privacy.example.noise_multiplier = [1.0]", ["exactly one of noise_multiplier and target_epsilon"]),
    ],
)
def test_what_cannot_be_swept_is_refused_with_its_place_before_anything_is_written(
    sweep_file, tmp_path, search, space, words
):
    file = sweep_file(search, space)
    if words is None:
        assert len(trials_of(file)[1]) == 1
        return
    with pytest.raises(BadInput) as refused:
        fedsim.sweep(file, tmp_path / "out")
    for word in words:
        assert word in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_every_setting_that_is_no_scenario_is_listed(sweep_file, tmp_path):
    with pytest.raises(BadInput) as refused:
        fedsim.sweep(sweep_file("", "rounds = [0, 1, -1]"), tmp_path / "out")
    assert "2 problems" in str(refused.value)
    assert "trial 0 " in str(refused.value)
    assert "trial 2 " in str(refused.value)


def test_a_grid_too_large_to_be_meant_is_refused():
    axis = Choices(tuple(range(1000)))
    with pytest.raises(BadInput, match="1000000 settings"):
        combinations({"a": axis, "b": axis})


def test_a_scenario_is_no_sweep_and_a_sweep_no_scenario(sweep_file, tmp_path):
    file = sweep_file("", "rounds = [1]")
    with pytest.raises(BadInput, match="fedsim sweep"):
        load_scenario(file)
    with pytest.raises(BadInput, match="fedsim run"):
        load_sweep(tmp_path / "small.toml")


def test_tables_of_leaves_the_base_as_it_is(sweep_file):
    sweep, trials = trials_of(sweep_file("", "privacy.example.target_epsilon = [inf]"))
    before = str(sweep.base)
    tables_of(sweep, trials[0].values, 1)
    assert str(sweep.base) == before


def test_numbers_of_settings_go_on_from_those_that_are_taken():
    first = list(distinct([{"a": 1}, {"a": 2}, {"a": 1}]))
    later = list(distinct([{"a": 2}, {"a": 3}], [trial.key for trial in first]))
    assert [(trial.number, trial.values) for trial in later] == [(2, {"a": 3})]
