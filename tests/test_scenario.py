"""Scenario files: every error at once and by name, nothing but ``BadInput`` for any file, and a true round trip."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.algorithms import ALGORITHMS
from fedsim.data import SOURCES
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.loading import ScenarioError, load_scenario, parse_scenario
from fedsim.models import MODELS
from fedsim.optimizers import ELEMENTWISE, build_optimizer, optimizer_classes
from fedsim.population import PARTITIONS
from fedsim.privacy.sampling import SAMPLINGS
from fedsim.scenario import Scenario
from fedsim.schema import adapter
from fedsim.tasks import TASKS
from fedsim.training import TRAINERS

FILES = sorted((Path(__file__).parent.parent / "scenarios").glob("*.toml"))
SCENARIOS = [file for file in FILES if "sweep" not in tomllib.loads(file.read_text())]

FULL = """
name = "full"
seed = 7
rounds = 4
[data]
source = "digits"
test_fraction = 0.25
[population]
clients = 30
partition = { kind = "dirichlet", alpha = 0.3, min_size = 2 }
[model]
name = "cnn"
convolutions = [{ channels = 4, kernel = 3 }, { channels = 8, padding = 0 }]
hidden = [16, 8]
activation = "tanh"
dropout = 0.1
initialisation = "he"
[algorithm]
name = "fedprox"
mu = 0.2
weighting = "uniform"
[algorithm.local]
epochs = 2
batch_size = 8
optimizer = "adam"
learning_rate = 0.05
options = { weight_decay = 0.01 }
[algorithm.server]
optimizer = "sgd"
learning_rate = 0.7
options = { momentum = 0.9 }
[cohort]
sampling = { kind = "poisson", rate = 0.5 }
[communication]
compression = { kind = "top_k", share = 0.1 }
error_feedback = true
[privacy.example]
clip_norm = 1.0
target_epsilon = 4.0
delta = 1e-5
[privacy.client]
clip_norm = 0.5
noise_multiplier = 1.5
delta = 1e-4
budget = 20.0
[evaluation]
every = 2
early_stopping = { patience = 3 }
[engine]
trainer = "opacus"
device = "cpu"
memory_gib = 0.5
"""


def problems(text: str, *overrides: str) -> list[str]:
    """What is wrong with a scenario, one line each."""
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "x", overrides)
    assert str(caught.value).count("\n") == len(caught.value.problems)
    return caught.value.problems


def only_problem(text: str, *overrides: str) -> str:
    found = problems(text, *overrides)
    assert len(found) == 1, found
    return found[0]


# Every error at once


def test_all_mistakes_of_a_file_are_reported_at_once_with_path_value_and_nearest_name(tmp_path):
    file = tmp_path / "bad.toml"
    file.write_text("""
seed = "0"
rounds = 3.5
nmae = "x"
[data]
source = "digts"
[population]
clients = 0
partition = { kind = "dirichlet", alpha = "0.5", min_szie = 3 }
[model]
name = "cnn"
convolutions = [{ channels = 16 }, { channels = "a", kernal = 3 }]
activation = "rleu"
[algorithm]
name = "fedprox"
mu = -1
local = { epochs = true, batch_size = 16 }
server = { optimizer = "adma" }
[cohort]
sampling = { kind = "poison", rate = 0.5 }
[privacy.example]
delta = 1e-5
target_epsilon = nan
[privacy.client]
clip_norm = 1
delta = 1e-3
[evaluation]
early_stopping = 5
[engine]
trainer = "vectorized"
""")
    with pytest.raises(ScenarioError) as caught:
        load_scenario(file)
    expected = [
        ('seed = "0":', "integer"),
        ("rounds = 3.5:", "integer"),
        ('nmae = "x": unknown key', 'did you mean "name"?'),
        ('data.source = "digts":', 'did you mean "digits"?'),
        ("population.clients = 0:", "greater than or equal to 1"),
        ('population.partition.alpha = "0.5":', "number"),
        ("population.partition.min_szie = 3: unknown key", 'did you mean "min_size"?'),
        ('model.convolutions[1].channels = "a":', "integer"),
        ("model.convolutions[1].kernal = 3: unknown key", 'did you mean "kernel"?'),
        ('model.activation = "rleu":', 'did you mean "relu"?'),
        ("algorithm.mu = -1:", "greater than or equal to 0"),
        ("algorithm.local.epochs = true:", "integer"),
        ('cohort.sampling.kind = "poison":', 'did you mean "poisson"?'),
        ("privacy.example.target_epsilon = NaN:", "finite"),
        ("privacy.example.clip_norm is missing", ""),
        ("evaluation.early_stopping = 5:", "table with patience"),
        ('engine.trainer = "vectorized":', 'did you mean "vectorised"?'),
        ('algorithm.server.optimizer = "adma":', "did you mean"),
        ("privacy.client:", "exactly one of noise_multiplier and target_epsilon"),
    ]
    lines = caught.value.problems
    for start, word in expected:
        assert [line for line in lines if line.startswith(start) and word in line], (start, lines)
    assert len(lines) == len(expected)
    assert str(caught.value).startswith(f"{file}: {len(expected)} problems\n")


UNKNOWN_KEYS = {
    "": "sed",
    "data": "test_fracton",
    "population": "cleints",
    "population.partition": "alhpa",
    "model": "hiden",
    "algorithm": "weigthing",
    "algorithm.local": "learning_rat",
    "algorithm.server": "optimiser",
    "cohort": "samplin",
    "cohort.sampling": "rat",
    "privacy": "clinet",
    "privacy.example": "clip_nrom",
    "privacy.client": "bugdet",
    "evaluation": "evry",
    "evaluation.early_stopping": "patince",
    "engine": "devic",
}


@pytest.mark.parametrize(("table", "key"), UNKNOWN_KEYS.items())
def test_an_unknown_key_is_named_with_the_nearest_valid_one(table, key):
    path = f"{table}.{key}" if table else key
    line = only_problem(FULL, f"{path}=1")
    assert line.startswith(f"{path} = 1: unknown key (did you mean")
    nearest = re.search(r'did you mean "(.*)"', line)[1]
    node: Any = parse_scenario(FULL, "x")
    for step in table.split(".") if table else []:
        node = getattr(node, step)
    assert nearest in {field.name for field in dataclasses.fields(node)}


def test_unknown_keys_are_found_inside_a_list_and_beside_each_other():
    found = problems(FULL, "model.convolutions=[{channels=1}, {channels=2, a=1, stried=2}]")
    assert sorted(line.split(" =")[0] for line in found) == ["model.convolutions[1].a", "model.convolutions[1].stried"]


@pytest.mark.parametrize(
    ("override", "start"),
    [
        ('population.partition={kind="dirichlet", dirichlet=3}', "population.partition.dirichlet = 3: unknown key"),
        ('model={name="mlp", mlp={x=3}}', 'model.mlp = {"x": 3}: unknown key'),
        ('model={name="cnn", convolutions=[{cnn=1, channels=1}]}', "model.convolutions[0].cnn = 1: unknown key"),
        ('model={name="a:b", "package.module:name"=3}', "model.package.module:name = 3: unknown key"),
    ],
)
def test_a_key_called_like_what_its_table_is_of_is_found_all_the_same(override, start):
    assert only_problem(FULL, override).startswith(start)


def test_a_scenario_called_like_a_table_does_not_confuse_the_paths():
    assert only_problem(FULL, "name=model", "model.hidden=3").startswith("model.hidden = 3:")


def test_an_unknown_key_far_from_all_names_lists_the_valid_ones():
    line = only_problem(FULL, "cohort.qqqqqqqq=1")
    assert line == "cohort.qqqqqqqq = 1: unknown key (valid: sampling)"


@pytest.mark.parametrize(
    "override",
    [
        'seed="3"',
        "seed=3.0",
        "seed=true",
        "seed=-1",
        "rounds=[]",
        "rounds=inf",
        "rounds=1979-05-27",
        'name="a/b"',
        'name=""',
        "data=3",
        "data.test_fraction=1.0",
        'population.clients="3"',
        "population.partition=[]",
        "population.partition.alpha=inf",
        "population.partition.alpha=0",
        "model.hidden=3",
        "model.hidden=[0]",
        "model.hidden=[[1]]",
        "model.dropout=1.0",
        "model.dropout=nan",
        "algorithm.local.learning_rate=inf",
        "algorithm.local.learning_rate=nan",
        "algorithm.local.options=3",
        "cohort.sampling.rate=1.5",
        "cohort.sampling.rate=nan",
        "privacy.example.delta=1.0",
        "privacy.client.delta=nan",
        "privacy.client.clip_norm=inf",
        "privacy.client.noise_multiplier=inf",
        "evaluation.every=0",
        'engine.device="gpu"',
        'engine.kind="flower"',
        "engine.memory_gib=-1",
    ],
)
def test_a_wrong_value_is_one_error_that_names_its_path(override):
    path, _, _ = override.partition("=")
    line = only_problem(FULL, override)
    assert line.startswith((f"{path} ", f"{path}.kind ", f"{path}.source ", f"{path}[0] "))


def test_a_whole_number_is_fine_where_a_number_is_wanted():
    assert parse_scenario(FULL, "x", ["privacy.client.clip_norm=1"]).privacy.client.clip_norm == 1.0


@pytest.mark.parametrize("where", ["algorithm.local.options.eps", "algorithm.server.options.momentum"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_nan_and_infinity_are_refused_in_optimizer_options(where, value):
    assert any(line.startswith(where.rpartition(".")[0]) for line in problems(FULL, f"{where}={value}"))


def test_nan_is_refused_deep_inside_a_custom_models_settings():
    line = only_problem(FULL, 'model={name="a:b", settings={x=[1, {y=nan}]}}')
    assert line == "model.settings.x[1].y = nan: must be a finite number"


# Files


@pytest.mark.parametrize("text", ["seed = ", "[data", "seed = 1\nseed = 2", "{}", "seed: 1", "seed = 01", "\0"])
def test_what_is_not_toml_is_refused(text):
    assert only_problem(text).startswith("not valid TOML: ")


@pytest.mark.parametrize("kind", ["missing", "folder", "bytes"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, kind):
    file = tmp_path / "x.toml"
    if kind == "folder":
        file.mkdir()
    elif kind == "bytes":
        file.write_bytes(b'name = "\xff\xfe"')
    with pytest.raises(BadInput, match=re.escape(str(file))):
        load_scenario(file)


def test_a_file_names_its_run_where_the_text_does_not(tmp_path):
    file = tmp_path / "frontier.toml"
    file.write_text("seed = 1")
    assert load_scenario(file).name == "frontier"
    file.write_text('name = "other"')
    assert load_scenario(str(file)).name == "other"


# --set


def test_set_changes_values_tables_strings_and_makes_new_tables():
    scenario = parse_scenario(
        "",
        "x",
        [
            "seed=5",
            'population={clients=3, partition={kind="dirichlet"}}',
            "population.partition.alpha=2",
            "engine.device=cpu",
            ' engine.trainer = "opacus"',
            "privacy.client.clip_norm=1.5",
            "privacy.client.noise_multiplier=1",
            "privacy.client.delta=1e-3",
            "model.name=cnn",
            "model.convolutions=[{channels=3}]",
        ],
    )
    assert (scenario.seed, scenario.population.clients, scenario.population.partition.alpha) == (5, 3, 2.0)
    assert (scenario.engine.device, scenario.engine.trainer) == ("cpu", "opacus")
    assert scenario.privacy.client.clip_norm == 1.5
    assert scenario.model.convolutions[0].channels == 3


def test_the_last_set_of_a_value_counts():
    assert parse_scenario("seed = 1", "x", ["seed=2", "seed=3"]).seed == 3


@pytest.mark.parametrize("override", ["seed", "=3", "", "a..b=1", ".a=1", "a.=1", "seed.x=1", "name.x=1"])
def test_a_set_that_cannot_be_applied_is_quoted(override):
    with pytest.raises(BadInput, match=re.escape(f"--set {override}:")):
        parse_scenario('seed = 1\nname = "a"', "x", [override])


def test_an_unknown_key_in_a_set_is_an_error():
    assert only_problem("", "privacy.clinet.delta=1e-3").startswith("privacy.clinet = ")


# The resolved scenario

optimizers = st.fixed_dictionaries(
    {"optimizer": st.sampled_from(["sgd", "adam", "adagrad"]), "learning_rate": st.floats(1e-6, 10.0)},
    optional={"options": st.fixed_dictionaries({}, optional={"weight_decay": st.floats(0, 1)})},
)
noise = st.one_of(
    st.fixed_dictionaries({"noise_multiplier": st.floats(0.01, 100)}, optional={"budget": st.floats(0.1, 50)}),
    st.fixed_dictionaries({"target_epsilon": st.floats(0.01, 50)}),
)


def unit(**extra: Any) -> st.SearchStrategy[dict[str, Any]]:
    base = st.fixed_dictionaries(
        {"clip_norm": st.floats(1e-3, 100), "delta": st.floats(1e-12, 1e-3, exclude_max=True)}, optional=extra
    )
    return st.builds(lambda one, two: one | two, base, noise)


convolutions = st.lists(
    st.fixed_dictionaries({"channels": st.integers(1, 9)}, optional={"kernel": st.integers(1, 5)}), max_size=3
)
models = st.one_of(
    st.fixed_dictionaries(
        {"name": st.just("mlp")},
        optional={"hidden": st.lists(st.integers(1, 99), max_size=3), "dropout": st.floats(0, 0.99)},
    ),
    st.fixed_dictionaries({"name": st.just("cnn"), "convolutions": convolutions}),
    st.fixed_dictionaries(
        {"name": st.just("my.module:Model")},
        optional={
            "settings": st.dictionaries(
                st.text(min_size=1, max_size=5),
                st.recursive(
                    st.booleans()
                    | st.integers(-(2**60), 2**60)
                    | st.floats(allow_nan=False, allow_infinity=False)
                    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
                    max_leaves=5,
                ),
                max_size=3,
            )
        },
    ),
)
scenario_dicts = st.fixed_dictionaries(
    {},
    optional={
        "name": st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,20}\Z"),
        "seed": st.integers(0, 2**63),
        "rounds": st.integers(1, 10**6),
        "data": st.fixed_dictionaries({"source": st.just("digits")}, optional={"test_fraction": st.floats(0.01, 0.9)})
        | st.fixed_dictionaries({"source": st.just("mnist")}, optional={"path": st.text("ab/ \"'\\é", max_size=9)}),
        "population": st.fixed_dictionaries(
            {"clients": st.integers(10, 900)},
            optional={
                "partition": st.just({"kind": "iid"})
                | st.fixed_dictionaries({"kind": st.just("dirichlet"), "alpha": st.floats(1e-3, 1e3)})
            },
        ),
        "model": models,
        "algorithm": st.fixed_dictionaries(
            {"name": st.sampled_from(["fedavg", "fedprox"])}, optional={"local": optimizers, "server": optimizers}
        ),
        "cohort": st.fixed_dictionaries(
            {
                "sampling": st.just({"kind": "all"})
                | st.fixed_dictionaries({"kind": st.just("fixed"), "size": st.integers(1, 10)})
                | st.fixed_dictionaries({"kind": st.just("poisson"), "rate": st.floats(1e-4, 1)})
            }
        ),
        "privacy": st.fixed_dictionaries(
            {}, optional={"example": unit(sampling_rate=st.floats(1e-4, 1)), "client": unit()}
        ),
        "evaluation": st.fixed_dictionaries(
            {"every": st.integers(1, 99)}, optional={"early_stopping": st.just({"patience": 2})}
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(scenario_dicts)
def test_the_resolved_file_is_the_same_scenario_and_fits_the_schema(raw):
    scenario = parse_scenario(tomli_w.dumps(raw), "x")
    again = parse_scenario(scenario.to_toml(), "another name")
    assert again == scenario
    assert again.digest == scenario.digest
    assert again.to_toml() == scenario.to_toml()
    assert mismatch(raw, SCHEMA) is None
    assert mismatch(scenario.to_dict(), SCHEMA) is None


def test_the_resolved_file_writes_out_every_default():
    written = parse_scenario("", "x").to_dict()
    assert written["model"] == {
        "name": "mlp",
        "hidden": [64],
        "activation": "relu",
        "dropout": 0.0,
        "normalisation": "none",
        "initialisation": "default",
    }

    def check(value: Any, settings: Any) -> None:
        names = {field.name for field in dataclasses.fields(settings)}
        assert set(value) == {name for name in names if getattr(settings, name) is not None}
        for name in value:
            if dataclasses.is_dataclass(getattr(settings, name)):
                check(value[name], getattr(settings, name))

    check(written, parse_scenario("", "x"))


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in leaves(item, f"{path}.{key}" if path else key)]
    return [(path, value)]


def another(value: Any, path: str) -> Any:
    """Another value that is valid at ``path`` of FULL; None for a name whose alternatives all need other keys too."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else (value or 0.5) * 1.0625
    if isinstance(value, list):
        return [*value, value[-1]]
    names = [name for node in tables(SCHEMA) if isinstance(node, dict) for name in node.get("enum", [])]
    for name in [*names, "rmsprop", "y"]:
        if name != value and read_or_refused(FULL, [f'{path}="{name}"']) is not None:
            return name
    return None


def test_the_digest_changes_with_every_single_value_and_with_nothing_else():
    scenario = parse_scenario(FULL, "full")
    assert parse_scenario(FULL + "# a comment", "full").digest == scenario.digest
    overrides = [
        'data={source="mnist"}',
        'population.partition={kind="iid"}',
        'model={name="mlp"}',
        'algorithm={name="fedavg"}',
        'cohort.sampling={kind="all"}',
    ]
    for path, value in leaves(scenario.to_dict()):
        new = another(value, path)
        if new is not None:
            overrides.append(f"{path}={toml_value(new)}")
    digests = [scenario.digest, *(parse_scenario(FULL, "full", [override]).digest for override in overrides)]
    assert len(digests) > 40
    assert len(set(digests)) == len(digests)
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)


def toml_value(value: Any) -> str:
    """A value as TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(value)


# The JSON schema

SCHEMA = adapter().json_schema()

TYPES = {
    "string": lambda v: isinstance(v, str),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
    "null": lambda v: v is None,
}
ANNOTATIONS = {"title", "description", "default", "$defs"}


def mismatch(value: Any, node: dict[str, Any], path: str = "$") -> str | None:
    """The first way in which ``value`` breaks the schema; KeyError for a rule that is not in the specification."""

    def rule(name: str, operand: Any) -> str | None:
        if name == "$ref":
            return mismatch(value, SCHEMA["$defs"][operand.removeprefix("#/$defs/")], path)
        if name in ("oneOf", "anyOf"):
            fits = sum(mismatch(value, option, path) is None for option in operand)
            good = fits == 1 if name == "oneOf" else fits >= 1
            return None if good else f"{path}: {fits} alternatives of {name} fit"
        if name == "properties":
            found = (mismatch(value[key], operand[key], f"{path}.{key}") for key in operand if key in value)
            return next(filter(None, found), None)
        if name == "items":
            return next(filter(None, (mismatch(v, operand, f"{path}[{i}]") for i, v in enumerate(value))), None)
        if name == "additionalProperties":
            extra = [] if operand else set(value) - set(node["properties"])
            return f"{path}: {extra}" if extra else None
        holds = {
            "type": lambda: TYPES[operand](value),
            "const": lambda: value == operand,
            "enum": lambda: value in operand,
            "required": lambda: set(operand) <= set(value),
            "minimum": lambda: value >= operand,
            "maximum": lambda: value <= operand,
            "exclusiveMinimum": lambda: value > operand,
            "exclusiveMaximum": lambda: value < operand,
            "pattern": lambda: re.search(operand, value) is not None,
        }[name]
        return None if holds() else f"{path} = {value}: not {name} {operand}"

    names = sorted(set(node) - ANNOTATIONS, key=lambda name: name != "type")  # a wrong type breaks the other rules
    return next(filter(None, (rule(name, node[name]) for name in names)), None)


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_every_shipped_scenario_fits_the_schema(file):

    assert mismatch(tomllib.loads(file.read_text()), SCHEMA) is None


def test_the_schema_refuses_what_the_loader_refuses():
    raw = parse_scenario(FULL, "x").to_dict()
    assert mismatch(raw, SCHEMA) is None
    assert mismatch(raw | {"sed": 1}, SCHEMA) == "$: {'sed'}"
    assert mismatch(raw | {"seed": "1"}, SCHEMA) == "$.seed = 1: not type integer"
    assert "0 alternatives" in mismatch(raw | {"data": {"source": "digts"}}, SCHEMA)
    assert "0 alternatives" in mismatch(raw | {"model": {"name": "mpl"}}, SCHEMA)


def test_the_schema_lists_every_entry_of_every_table():
    def named(key: str) -> set[str]:
        return {spec["properties"][key]["const"] for spec in SCHEMA["$defs"].values() if has_constant(spec, key)}

    def has_constant(spec: dict[str, Any], key: str) -> bool:
        return "const" in spec.get("properties", {}).get(key, {})

    assert named("source") == set(SOURCES)
    assert named("kind") >= set(PARTITIONS) | set(SAMPLINGS)
    assert named("name") == set(MODELS) | set(ALGORITHMS)
    assert set(SCHEMA["$defs"]["EngineSettings"]["properties"]["trainer"]["enum"]) == {"auto", *TRAINERS}


@pytest.mark.parametrize("table", [SOURCES, PARTITIONS, TASKS, MODELS, ALGORITHMS, SAMPLINGS])
def test_a_tables_key_is_the_name_its_entry_answers_to(table):
    for name, entry in table.items():
        own = next(getattr(entry, key) for key in ("name", "kind", "source") if hasattr(entry, key))
        assert own == name


# Impossible combinations

CLIENT = "[population]\nclients = 20\n[privacy.client]\nclip_norm = 1.0\n"
EXAMPLE = "[population]\nclients = 20\n[privacy.example]\nclip_norm = 1.0\ndelta = 1e-5\n"


@pytest.mark.parametrize("level", ["example", "client"])
@pytest.mark.parametrize(
    ("lines", "path", "words"),
    [
        ("", "", "give exactly one of noise_multiplier and target_epsilon"),
        ("noise_multiplier = 1.0\ntarget_epsilon = 2.0", "", "give exactly one of"),
        ("noise_multiplier = 0.0", ".noise_multiplier = 0.0", "no guarantee"),
        ("target_epsilon = 1000.0", ".target_epsilon = 1000.0", "above 50"),
        ("noise_multiplier = 1.0\nbudget = 51.0", ".budget = 51.0", "above 50"),
        ("target_epsilon = 1.0\nbudget = 2.0", ".budget", "already the budget"),
    ],
)
def test_impossible_privacy_settings_are_refused(level, lines, path, words):
    line = only_problem(f"[privacy.{level}]\nclip_norm = 1.0\ndelta = 1e-5\n{lines}")
    assert line.startswith(f"privacy.{level}{path}:")
    assert words in line


@pytest.mark.parametrize("level", ["example", "client"])
@pytest.mark.parametrize("line", ["noise_multiplier = 1e-3", "target_epsilon = 50.0"])
def test_settings_at_the_edge_of_the_possible_are_accepted(level, line):
    assert parse_scenario(f"[privacy.{level}]\nclip_norm = 1.0\ndelta = 1e-5\n{line}", "x").privacy


@pytest.mark.parametrize("delta", [0.05, 0.051, 0.9])
def test_a_client_delta_of_one_over_clients_or_more_is_refused(delta):
    line = only_problem(CLIENT + f"noise_multiplier = 1.0\ndelta = {delta}")
    assert line.startswith(f"privacy.client.delta = {delta}: must be below 1 / population.clients = 0.05")


def test_a_client_delta_just_below_one_over_clients_is_accepted():
    assert parse_scenario(CLIENT + "noise_multiplier = 1.0\ndelta = 0.0499", "x").privacy.client.delta == 0.0499


def test_noise_cannot_be_correlated_over_more_rounds_than_there_are():
    text = CLIENT + 'delta = 1e-3\nnoise_multiplier = 1.0\nmechanism = "banded"\nbands = 4\n'
    cyclic = 'cohort.sampling={kind="cyclic", groups=4}'
    assert parse_scenario(text, "x", [cyclic, "rounds=4"]).privacy.client.bands == 4
    assert only_problem(text, cyclic, "rounds=3").startswith("privacy.client.bands = 4:")


def test_a_fixed_cohort_cannot_be_larger_than_the_population():
    text = '[cohort]\nsampling = { kind = "fixed", size = 11 }'
    assert only_problem(text) == "cohort.sampling.size = 11: there are only population.clients = 10"
    assert parse_scenario(text, "x", ["population.clients=11"]).cohort.sampling.size == 11


def test_weighting_by_examples_needs_a_public_cap_under_client_privacy():
    text = CLIENT + 'noise_multiplier = 1.0\ndelta = 1e-3\n[algorithm]\nname = "fedavg"\nweighting = "examples"\n'
    line = only_problem(text)
    assert line.startswith('algorithm.weighting = "examples":')
    assert "weight_cap" in line
    assert parse_scenario(text + "weight_cap = 50", "x").algorithm.weight_cap == 50
    assert "weight_cap" in only_problem(text.replace('"examples"', '"uniform"') + "weight_cap = 50")


def test_a_weight_cap_without_client_privacy_is_refused():
    assert only_problem("", 'algorithm={name="fedavg", weight_cap=5}').startswith("algorithm.weight_cap:")


@pytest.mark.parametrize(
    ("side", "name", "hint"),
    [
        ("local", "sdg", 'did you mean "sgd"?'),
        ("local", "adma", "did you mean"),
        ("local", "SGD", "valid: sgd, adam"),
        ("local", "adafactor", "valid: sgd, adam"),  # exists, but does not treat every value on its own
        ("local", "lbfgs", "valid: sgd, adam"),
        ("server", "momentum", "valid: "),
        ("server", "lbfgs", "valid: "),
        ("server", "adamm", "did you mean"),
    ],
)
def test_an_unknown_optimizer_is_named_with_a_hint(side, name, hint):
    line = only_problem("", "algorithm.name=fedavg", f"algorithm.{side}.optimizer={name}")
    assert line.startswith(f'algorithm.{side}.optimizer = "{name}": unknown optimizer')
    assert hint in line


def test_a_rate_that_single_precision_cannot_hold_is_refused():
    assert "overflow" in only_problem("", "algorithm.name=fedavg", "algorithm.local={learning_rate=1e300}")


@pytest.mark.parametrize("name", optimizer_classes())
def test_an_optimizer_can_be_built_without_options_at_any_sane_rate_so_that_is_not_tried(name):
    for rate in (None, 1e-300, 1.0, 1e30):
        parameter = torch.zeros(2)
        optimizer = build_optimizer(name, parameter, rate, {})
        parameter.grad = torch.zeros(2)
        optimizer.step()


@pytest.mark.parametrize("side", ["local", "server"])
@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        ("sgd", "{momentun=0.9}", 'momentun: optimizer "sgd" has no such option (did you mean "momentum"?)'),
        ("sgd", "{betas=[0.9, 0.99]}", 'betas: optimizer "sgd" has no such option'),
        ("adam", "{lr=0.1}", 'lr: optimizer "adam" has no such option'),
        ("sgd", "{params=[]}", 'params: optimizer "sgd" has no such option'),
        ("sgd", "{momentum=-1}", "Invalid momentum value: -1"),
        ("sgd", "{nesterov=true}", "Nesterov momentum requires"),
        ("adam", "{betas=[0.9, 1.5]}", "Invalid beta parameter"),
        ("adam", "{betas=3}", "algorithm."),
        ("adam", '{eps="small"}', "algorithm."),
        ("rmsprop", "{alpha=-1}", "Invalid alpha value"),
    ],
)
def test_impossible_optimizer_options_are_refused(side, optimizer, options, expected):
    line = only_problem("", "algorithm.name=fedavg", f'algorithm.{side}={{optimizer="{optimizer}", options={options}}}')
    assert line.startswith(f"algorithm.{side}.options")
    assert expected in line


@pytest.mark.parametrize(
    ("optimizer", "options", "expected"),
    [
        ("fedadam", "{eps=1e-3}", 'eps: optimizer "fedadam" has no such option'),
        ("fedadam", "{tau=0.0}", "Invalid tau or eps value"),
        ("fedyogi", "{betas=[0.9, 1.0]}", "Invalid beta parameter at index 1"),
        ("fedadagrad", "{betas=[0.9, 0.99]}", 'betas: optimizer "fedadagrad" has no such option'),
        ("fedavgm", "{momentum=-1}", "Invalid momentum value: -1"),
        ("yogi", "{initial=-1.0}", "Invalid initial value"),
    ],
)
def test_impossible_options_of_server_optimizers_are_refused(optimizer, options, expected):
    line = only_problem("", "algorithm.name=fedavg", f'algorithm.server={{optimizer="{optimizer}", options={options}}}')
    assert line.startswith("algorithm.server.options")
    assert expected in line


def test_server_optimizers_are_refused_in_clients():
    assert 'algorithm.local.optimizer = "fedadam": unknown optimizer' in only_problem(
        "", "algorithm.name=fedavg", "algorithm.local.optimizer=fedadam"
    )


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_local_optimizer_is_accepted_and_treats_values_on_their_own(name):
    import torch

    assert parse_scenario("", "x", ["algorithm.name=fedavg", f"algorithm.local.optimizer={name}"])

    def trained(start: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        weights = start.clone()
        optimizer = optimizer_classes()[name]([weights], lr=0.1)
        for gradient in gradients:
            weights.grad = gradient.clone()
            optimizer.step()
        return weights

    rng = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(3, 5, generator=rng), torch.randn(4, 3, 5, generator=rng)
    stacked = trained(start, gradients)
    alone = torch.stack([trained(start[row], gradients[:, row]) for row in range(3)])
    torch.testing.assert_close(stacked, alone, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(optimizer_classes()))
def test_every_server_optimizer_is_accepted(name):
    assert parse_scenario("", "x", ["algorithm.name=fedavg", f"algorithm.server.optimizer={name}"])


def test_combinations_are_checked_although_other_values_are_wrong():
    found = problems(
        FULL,
        'population.clients="many"',
        'cohort.sampling={kind="fixed", size=25}',
        "algorithm.mu=-1",
        "algorithm.server.optimizer=sdg",
        "privacy.example.noise_multiplier=1.0",
    )
    starts = [line.split(" ")[0] for line in found]
    # The cohort of 25 is not held against the default of 10 clients, as the number of clients is what is wrong.
    assert sorted(starts) == ["algorithm.mu", "algorithm.server.optimizer", "population.clients", "privacy.example:"]


def test_a_wrong_value_that_a_table_needs_does_not_hide_an_impossible_combination():
    found = problems('cohort.sampling = { kind = "fixed", size = 99 }', 'privacy.client={clip_norm="x", delta=1e-3}')
    assert [line.split(" ")[0] for line in found] == ["privacy.client.clip_norm", "cohort.sampling.size"]


def test_what_is_wrong_for_certain_is_told_beside_wrong_values_of_the_same_table():
    found = problems(
        'rounds = "ten"\n[algorithm]\nname = "fedavg"\nlocal = { optimizer = "sdg", epochs = "2" }\n[privacy.example]\n'
        "clip_norm = -1.0\ndelta = 1e-5\ntarget_epsilon = 2\nnoise_multiplier = 1.0"
    )
    assert [line.partition(" =")[0] for line in found] == [
        "rounds",
        "algorithm.local.epochs",
        "privacy.example.clip_norm",
        "algorithm.local.optimizer",
        "privacy.example: give exactly one of noise_multiplier and target_epsilon",
    ]


def test_a_missing_kind_does_not_hide_what_is_wrong_whatever_it_is():
    found = problems(
        '[data]\nsource = "csv"\npath = "x"\nlabel = "y"\n'
        'features = [{ name = "a", type = "number" }, { name = "b", values = ["c"], fill = 1 }, { kind = "numeric" }]\n'
        '[algorithm]\nmu = 0.1\nlocal = { epochs = "2", optimizer = "sdg" }\n'
    )
    assert [line.partition(" (")[0] for line in found] == [
        "data.features[0].kind is missing: must be one of numeric, categorical",
        "data.features[1].kind is missing: must be one of numeric, categorical",
        "data.features[2].name is missing",
        f"algorithm.name is missing: must be one of {', '.join(ALGORITHMS)}",
        'data.features[0].type = "number": unknown key',
        'algorithm.local.epochs = "2": input should be a valid integer',
        'algorithm.local.optimizer = "sdg": unknown optimizer',
    ]


def test_a_missing_value_does_not_hide_an_impossible_combination():
    found = problems('[privacy.client]\ndelta = 1e-3\n[cohort]\nsampling = { kind = "fixed", size = 99 }')
    assert [line.split(" ")[0] for line in found] == ["privacy.client.clip_norm", "cohort.sampling.size"]


# Any file at all

EXTREMES = [
    None,
    True,
    0,
    -1,
    1,
    10**6,
    2**63,
    -(2**64),
    0.0,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
    "",
    "iid",
    "mlp",
    "a:b",
    ":",
    "1",
    "\0",
    "é" * 200,
    [],
    [[]],
    [{}],
    [1, "a", None],
    {},
    {"name": "cnn"},
    {"kind": []},
    {"name": {}},
    {"package.module:name": 1},
    {"kind": "poisson", "source": "digits", "name": "mlp"},
]


def tables(value: Any) -> list[Any]:
    """Every dict and list inside ``value``."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    own = [value] if isinstance(value, dict | list) else []
    return own + [table for item in inner for table in tables(item)]


def mutate(draw: Any, raw: dict[str, Any]) -> None:
    """Drop, rename, retype, move or add one value somewhere."""
    places = [table for table in tables(raw) if table]
    table = draw(st.sampled_from(places)) if places else raw
    keys = list(table) if isinstance(table, dict) else list(range(len(table)))
    action = draw(st.sampled_from(["drop", "rename", "replace", "wrap", "graft", "add"]))
    # a copy: a later mutation of this example must not change the list that the next one draws from
    new = copy.deepcopy(draw(st.sampled_from(EXTREMES) | st.integers() | st.floats() | st.text(max_size=8)))
    if isinstance(table, dict) and (action == "add" or not keys):
        table[draw(st.sampled_from(["name", "kind", "source", "rate", "x", "", "a.b", "options", "settings"]))] = new
        return
    key = draw(st.sampled_from(keys))
    old = table[key]
    if action == "drop":
        del table[key]
    elif action == "rename" and isinstance(table, dict):
        table[draw(st.text(max_size=4)) + str(key)[1:]] = table.pop(key)
    elif action == "wrap":
        table[key] = draw(st.sampled_from([[old], {"name": old}, {str(key): old}]))
    elif action == "graft":
        table[key] = json.loads(json.dumps(draw(st.sampled_from(places))))
    else:
        table[key] = new


def drop_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: drop_none(item) for key, item in value.items() if item is not None}
    return [drop_none(item) for item in value if item is not None] if isinstance(value, list) else value


def read_or_refused(text: str, overrides: Sequence[str] = ()) -> Scenario | None:
    """The scenario, or None where it is refused as bad input; any other exception passes through."""
    try:
        return parse_scenario(text, "x", overrides)
    except BadInput:
        return None


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_mutated_scenario_is_either_read_or_refused_by_name(data):
    raw = parse_scenario(FULL, "x").to_dict()
    for _ in range(data.draw(st.integers(1, 4))):
        mutate(data.draw, raw)
    text = tomli_w.dumps(drop_none(raw))
    scenario = read_or_refused(text)
    if scenario is not None:
        assert parse_scenario(scenario.to_toml(), "x") == scenario


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.lists(st.text(max_size=20), max_size=2))
def test_any_text_and_any_override_is_either_read_or_refused(text, overrides):
    read_or_refused(text, overrides)


def test_dates_and_times_are_refused_where_a_number_or_a_name_is_wanted():
    assert only_problem("seed = 07:32:00").startswith('seed = "07:32:00":')
    assert only_problem("[model]\nname = 1979-05-27").startswith('model.name = "1979-05-27":')


@pytest.mark.parametrize("path", ["~nobody-has-this-name/x", "a\\u0000b"], ids=["home", "null"])
@pytest.mark.parametrize(
    ("key", "override"),
    [
        ("model.initial", 'model={{name="mlp", initial="{}"}}'),
        ("data.path", 'data={{source="text", path="{}"}}'),
        ("data.path", 'data={{source="mnist", path="{}"}}'),
        ("data.path", 'data={{source="npz", path="{}"}}'),
        ("data.dataset", 'data={{source="hf", dataset="{}", features=["x"], label="y"}}'),
    ],
)
def test_what_cannot_be_a_path_is_bad_input(key, override, path):
    with pytest.raises(BadInput, match=f"{re.escape(key)} = .* is no path"):
        build_federation(parse_scenario("", "x", [override.format(path)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'communication = { compression = "top_k" }',
            'communication.compression = "top_k": must be a table with the key kind: { kind = "top_k" }',
        ),
        (
            'communication = { compression = "topp" }',
            'communication.compression = "topp": must be a table with the key kind',
        ),
        ("devices = { dropout = 0.1 }", "devices.dropout = 0.1: must be a table with before_upload, after_upload"),
        ("evaluation = { early_stopping = 3 }", "evaluation.early_stopping = 3: must be a table with patience"),
    ],
)
def test_where_a_table_is_wanted_the_message_says_which(text, message):
    assert only_problem(text) == message


def test_an_attack_of_kind_none_is_no_attack():
    text = '[attack]\nkind = "label_flip"\nfraction = 0.3\nsource = 1\ntarget = 2\n'
    assert parse_scenario(text, "x").attack is not None
    baseline = parse_scenario(text, "x", ["attack.kind=none"])
    assert baseline.attack is None
    assert baseline.digest == parse_scenario("", "x").digest
