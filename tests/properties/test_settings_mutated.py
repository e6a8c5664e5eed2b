"""Scenario files, values from the command line, sweeps and sites' settings: read, or refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedsim.deployment.site_settings import load_site
from fedsim.errors import BadInput
from fedsim.loading import ScenarioError, load_scenario, parse_scenario
from fedsim.sweeps.search import PROPOSERS
from fedsim.sweeps.settings import load_sweep
from fedsim.sweeps.space import Range, combinations
from fedsim.sweeps.trials import check_trials
from tests.fuzzing.mutation import mutate_tree
from tests.fuzzing.settings import SETTINGS_TARGETS as TARGETS
from tests.fuzzing.settings import (
    SITE,
    TOML_WORDS,
    override_mutate,
    read_scenario,
    run_one_round,
    scenario_trees,
    small,
    sweep_trees,
    toml_mutate,
    toml_of,
    without_none,
)
from tests.fuzzing.target import refusal
from tests.properties.profile import RANDOMS, tried


def assert_named(error: BadInput, folder: str) -> None:
    """The message names the file, and where each problem lies: a dotted path, a line of the file, or a trial."""
    text = str(error)
    assert folder in text
    assert len(text) < 20_000
    assert "Traceback" not in text
    if isinstance(error, ScenarioError):
        assert error.problems
        assert all(re.match(r"[\w\[]|\"|not valid TOML", line) for line in error.problems), error.problems


@tried(120)
@given(RANDOMS)
def test_a_mutated_scenario_is_read_or_refused_by_name(tmp_path, random: Random):
    data = toml_of(mutate_tree(random, random.choice(scenario_trees()), scenario_trees()))
    try:
        scenario = read_scenario(data, tmp_path)
    except BadInput as error:
        assert_named(error, str(tmp_path))
        return
    assert scenario.digest


@tried(60)
@given(RANDOMS)
def test_mutated_text_is_read_or_refused(tmp_path, random: Random):
    data = toml_mutate(random, toml_of(random.choice(scenario_trees())), TOML_WORDS, [])
    try:
        read_scenario(data, tmp_path)
    except BadInput as error:
        assert_named(error, str(tmp_path))


@tried(12)
@given(RANDOMS)
def test_what_is_read_and_small_runs_or_is_refused(tmp_path_factory, monkeypatch, random: Random):
    """Mutations that keep most values: a federation is set up, and a round is run where nothing is wrong with it."""
    tree = mutate_tree(random, random.choice(scenario_trees()), scenario_trees())
    tree = {**tree, "data": {"source": "synthetic", "problem": {"kind": "clusters", "examples": 80}}}
    tree["population"] = (
        {"clients": 6} | {key: value for key, value in (tree.get("population") or {}).items() if key == "partition"}
        if isinstance(tree.get("population"), dict)
        else {"clients": 6}
    )
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    assert refusal(lambda: read_and_run(toml_of(tree).decode(), folder)) != ""


def read_and_run(text: str, folder: Path) -> None:
    scenario = parse_scenario(text, "x")
    if small(scenario.to_dict()):
        run_one_round(scenario, folder)


@tried(60)
@given(RANDOMS)
def test_any_value_from_the_command_line_is_set_or_refused(random: Random):
    line = override_mutate(random, b"rounds=3", (b".", b"="), [b"model={name='mlp'}"]).decode("utf-8", "replace")
    assert refusal(lambda: parse_scenario("", "x", [line])) != ""


@tried(60)
@given(RANDOMS)
def test_a_mutated_sweep_is_read_or_refused(tmp_path_factory, random: Random):
    folder = tmp_path_factory.mktemp("sweep")
    data = toml_of(mutate_tree(random, random.choice(sweep_trees()), sweep_trees()))
    assert refusal(lambda: TARGETS["sweep"].run(data, folder)) != ""


@tried(60)
@given(RANDOMS)
def test_a_mutated_site_is_read_or_refused_by_name(tmp_path, random: Random):
    (tmp_path / "site.toml").write_bytes(toml_mutate(random, SITE.encode(), TOML_WORDS, [SITE.encode()]))
    try:
        load_site(tmp_path)
    except BadInput as error:
        assert_named(error, str(tmp_path))


HOSTILE = {
    "arrays": "x = " + "[" * 10**5,
    "tables": "x = " + "{a=" * 10**5,
    "a header": "[" + "a." * 10**5 + "b]",
    "a key": "a." * 10**5 + "b = 1",
    "a quoted key": '"a" . ' * 10**5 + "b = 1",
    "digits": "seed = " + "9" * 10**5,
    "hexadecimal digits": "seed = 0x" + "f" * 10**5,
    "text": "a" * (2**24 + 1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_absurdly_deep_or_long_is_refused_at_once(tmp_path, kind):
    for name in ("x.toml", "site.toml"):
        (tmp_path / name).write_text(HOSTILE[kind])
    for load in (lambda: load_scenario(tmp_path / "x.toml"), lambda: load_site(tmp_path)):
        with pytest.raises(BadInput, match=str(tmp_path)) as caught:
            load()
        assert len(str(caught.value)) < 500
    with pytest.raises(BadInput):
        parse_scenario("", "x", [HOSTILE[kind]])


def test_a_value_that_is_absurdly_deep_is_refused():
    with pytest.raises(BadInput, match=r"--set a\.a\.a.* deep in each other"):
        parse_scenario("", "x", ["a." * 70 + "b=1"])


def test_what_is_deep_but_not_absurd_is_judged_as_anything_else():
    tree = without_none({"model": {"name": "mlp", "hidden": [[[[8]]]]}})
    with pytest.raises(ScenarioError, match=r"model.hidden\[0\]"):
        parse_scenario(tomli_w.dumps(tree), "x")


def test_a_grid_of_more_settings_than_can_be_listed_is_refused_at_once(tmp_path):
    """The range is counted, not listed; the others draw from it all the same."""
    text = (
        'base = { rounds = 2 }\n[sweep]\nmethod = "{}"\n{}\n[space]\nrounds = { low = 1, high = 9223372036854775807 }\n'
    )
    for method, more in (("grid", ""), ("random", "trials = 3"), ("tpe", "trials = 3")):
        (tmp_path / f"{method}.toml").write_text(text.replace("{}", method, 1).replace("{}", more, 1))
    space = load_sweep(tmp_path / "grid.toml").space
    with pytest.raises(BadInput, match="the grid has 9223372036854775807 settings"):
        combinations(space)
    drawn = PROPOSERS["random"](load_sweep(tmp_path / "random.toml"), [], {})
    assert len({trial.values["rounds"] for trial in drawn}) == 3
    assert space["rounds"].value(10**18) == 10**18 + 1


@pytest.mark.parametrize("privacy", ["[]", "[{}]", "3", "'x'"])
def test_a_base_whose_privacy_is_no_table_is_refused_where_it_is_left_out(tmp_path, privacy):
    space = '[space]\n"privacy.client.target_epsilon" = ["inf", 2.0]\n'
    (tmp_path / "x.toml").write_text(f"base = {{ privacy = {privacy} }}\n[sweep]\n{space}")
    sweep = load_sweep(tmp_path / "x.toml")
    with pytest.raises(BadInput, match="privacy is no table in the base scenario"):
        check_trials(sweep, PROPOSERS["grid"](sweep, [], {}))


@tried(60)
@given(st.integers(-50, 50), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_a_range_counts_the_values_that_it_lists(low, width, step, whole):
    axis = Range(low, low + width, step=min(step, width)) if whole else Range(low, low + width + 0.5, step=step / 8)
    points = axis.points()
    assert axis.count == len(points)
    assert points[0] == low
    assert points[-1] <= axis.high + 1e-9 < points[-1] + (axis.spacing or 0) + 1e-6
    assert [axis.value(number) for number in range(axis.count)] == list(points)
