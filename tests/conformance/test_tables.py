"""Every shipped scenario and every entry of every table works in a tiny run; a new entry needs no new test."""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import MISSING, fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from fedsim.algorithms import ALGORITHMS
from fedsim.attacks import ATTACKS
from fedsim.communication import COMPRESSIONS
from fedsim.data import SOURCES, Digits
from fedsim.errors import BadInput
from fedsim.federation import build_federation
from fedsim.listing import TABLES as LISTED
from fedsim.listing import entry_text, tables_text
from fedsim.loading import load_scenario, parse_scenario
from fedsim.models import MODELS, Autoencoder, Custom, Mlp, Signature, build_model
from fedsim.population import PARTITIONS
from fedsim.privacy.sampling import SAMPLINGS
from fedsim.scenario import Evaluation
from fedsim.schedules import SCHEDULES
from fedsim.tasks import TASKS
from fedsim.training import TRAINERS
from tests.conformance.promises import short_run
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, settings_of
from tests.samples import tasks_of
from tests.tasks.made import Made

FILES = sorted((Path(__file__).parents[2] / "scenarios").glob("*.toml"))
SCENARIOS = [file for file in FILES if "sweep" not in tomllib.loads(file.read_text())]
TABLES = {
    "data.source": SOURCES,
    "population.partition.kind": PARTITIONS,
    "task.kind": TASKS,
    "model.name": MODELS,
    "algorithm.name": ALGORITHMS,
    "algorithm.local.schedule.kind": SCHEDULES,
    "cohort.sampling.kind": SAMPLINGS,
    "communication.compression.kind": COMPRESSIONS,
    "attack.kind": ATTACKS,
    "engine.trainer": TRAINERS,
}
PRIVACY = {
    "none": "",
    "example": EXAMPLE_PRIVACY,
    "client": CLIENT_PRIVACY,
    "both": EXAMPLE_PRIVACY + CLIENT_PRIVACY,
}
# For every task data that fit, and a model.
TASK_RUNS = {
    "classification": {"data": Made(), "model": Mlp(hidden=(4,))},
    "regression": {"data": Made(kind="numbers"), "model": Mlp(hidden=(4,))},
    "next_character": {"data": Made(kind="tokens"), "model": Custom("tests.tasks.made:TinyText")},
    "reconstruction": {"model": Autoencoder(channels=(2, 3), bottleneck=4)},
}
# Sources that ship with a dependency; the others' files are looked for in FEDSIM_DATA.
BUILT_IN = {"digits", "synthetic"}


@pytest.fixture(autouse=True)
def _reports_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an entry's runs with every trainer and unit one writes a report; those of shipped scenarios have figures."""
    own = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if own.get("privacy", "both") != "both" or own.get("trainer", "native") != "native":
        monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    elif "file" not in own:
        request.getfixturevalue("sketches")


def needs_data(source: str) -> None:
    """Skip where a source's files are not on this machine."""
    if source not in BUILT_IN and not os.environ.get("FEDSIM_DATA"):
        pytest.skip(f'FEDSIM_DATA is not set, so there are no files for data.source = "{source}"')


def needs_settings(source: str) -> None:
    """Skip a source that cannot be had by its name alone."""
    missing = [field.name for field in fields(SOURCES[source]) if field.default is field.default_factory is MISSING]
    if missing:
        pytest.skip(f'data.source = "{source}" needs settings of its own: {", ".join(missing)}')


def elsewhere(scenario, folder: Path) -> list[str]:
    """Overrides for the files that a scenario names in the folder where it is run: data, and a run's model."""
    overrides = []
    if getattr(scenario.data, "path", None):
        overrides.append(f"data.path={os.environ['FEDSIM_DATA']}/{Path(scenario.data.path).name}")
    if scenario.model.initial:
        fresh = replace(scenario.model, initial=None, initial_skip=(), freeze=())
        signature = Signature(scenario.data.load(0).shape, (10,))
        file = folder / "model.safetensors"
        save_file(dict(build_model(fresh, signature, seed=1).named_parameters()), file)
        overrides.append(f"model.initial={file}")
    return overrides


def owned_digits(source: Digits, seed: int, load=Digits.load):
    """The digits with six owners."""
    data = load(source, seed)
    train = replace(data.train, owners=np.arange(len(data.train)) % 6)
    return replace(data, train=train, owners=tuple("abcdef"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_a_shipped_scenario_runs(file, tmp_path):
    """Each runs three of its own rounds, calibrated for all of them; where one takes long, with two steps at most."""
    scenario = load_scenario(file)
    needs_data(scenario.data.source)
    own = elsewhere(scenario, tmp_path)
    scenario = load_scenario(file, own)
    if scenario.population.clients == 1:  # a round of one client with all of MNIST takes minutes
        federation = build_federation(scenario)
        assert len(federation.population) == 1
        assert federation.start.numel() == 26_010
        return
    if scenario.data.source not in BUILT_IN:
        small = ['cohort.sampling={kind="fixed", size=2}', "algorithm.local.steps=2"]
        scenario = load_scenario(file, [*own, *small])
    short_run(replace(scenario, evaluation=Evaluation(every=3)), tmp_path, stop=3)


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_a_shipped_scenario_is_written_out_and_read_back_unchanged(file):
    scenario = load_scenario(file)
    assert parse_scenario(scenario.to_toml(), "x") == scenario


@pytest.mark.parametrize(("key", "name"), [(key, name) for key, table in TABLES.items() for name in table])
def test_every_entry_says_what_it_is_in_one_line(key, name):
    docstring = TABLES[key][name].__doc__
    assert docstring
    first = docstring.splitlines()[0]
    assert 10 < len(first) < 120
    assert first.endswith((".", ":")) or ". " in first or "; " in first, first


def test_the_list_of_names_shows_every_entry():
    lines = tables_text().splitlines()
    for key, table in LISTED.items():
        start = lines.index(key) + 1
        shown = lines[start : start + len(table)]
        assert [line.split()[0] for line in shown] == list(table)
        assert all(entry.__doc__.splitlines()[0] in line for line, entry in zip(shown, table.values(), strict=True))


def test_every_table_is_listed():
    assert LISTED.keys() >= TABLES.keys()
    assert all(LISTED[key] == dict(table) for key, table in TABLES.items())


@pytest.mark.parametrize(("key", "name"), [(key, name) for key in LISTED for name in LISTED[key]])
def test_of_every_entry_the_list_shows_each_setting_with_its_default(key, name):
    entry = LISTED[key][name]
    first, about, *rows = entry_text(f"{key}.{name}").splitlines()
    assert first == f'{key} = "{name}"'
    assert about.startswith(entry.__doc__.splitlines()[0])
    if key == "engine.trainer":
        assert rows == ["It has no settings of its own."]
        return
    settings = [field for field in fields(entry) if field.name != key.rpartition(".")[2]]
    assert [row.split()[0] for row in rows[1:]] == [field.name for field in settings]
    for row, field in zip(rows[1:], settings, strict=True):
        required = field.default is MISSING and field.default_factory is MISSING
        assert row.endswith("required") == required
        if isinstance(field.default, str | float | int):
            assert row.endswith(f"  {json.dumps(field.default)}")


def test_an_entry_is_found_by_its_name_where_that_is_unique():
    assert entry_text("lstm") == entry_text("model.lstm") == entry_text("model.name.lstm")
    assert "dropout" in entry_text("lstm")
    assert "number >= 0 and < 1" in entry_text("lstm")
    assert 'list of { kind = "numeric" } or { kind = "categorical" }' in entry_text("csv")
    with pytest.raises(BadInput, match=r"several: privacy.example.clipping.kind.adaptive, privacy.client.clipping"):
        entry_text("adaptive")
    with pytest.raises(BadInput, match=r"lsmt: .* \(did you mean lstm\?\)"):
        entry_text("lsmt")


# The trainers are compared with each other elsewhere: one runs with every unit, the others with none and with both.
RUNS = [(t, p) for t in TRAINERS for p in PRIVACY if t == "native" or p in ("none", "both")]


@pytest.mark.parametrize(("trainer", "privacy"), RUNS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_runs_with_every_trainer_and_every_unit_of_privacy(algorithm, trainer, privacy, tmp_path):
    """Or it says why not."""
    text = SMALL + PRIVACY[privacy]
    overrides = ["rounds=2", f"engine.trainer={trainer}", 'cohort.sampling={kind="poisson", rate=0.6}']
    overrides += settings_of(algorithm)
    overrides += ["algorithm.local.steps=2"] * (not ALGORITHMS[algorithm].one_step)
    refused = {unit: getattr(ALGORITHMS[algorithm], f"refuses_{unit}_level") for unit in ("example", "client")}
    reasons = [why for unit, why in refused.items() if why is not None and privacy in (unit, "both")]
    if reasons:
        with pytest.raises(BadInput) as error:
            parse_scenario(text, "tiny", overrides)
        assert str(error.value).count(f'algorithm.name = "{algorithm}": not with [privacy.') == len(reasons)
        assert all(why in str(error.value) for why in reasons)
        return
    result = short_run(parse_scenario(text, "tiny", overrides), tmp_path)
    assert result.summary["trainer"] == trainer
    assert ("accuracy_personal_worst" in result.metrics) == ALGORITHMS[algorithm].personalises


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_runs(source, tmp_path):
    needs_settings(source)
    needs_data(source)
    model = {"tokens": "lstm"}.get(SOURCES[source]().load(0).kind, "mlp")
    overrides = ["population.partition={kind='iid'}", f"model={{name='{model}'}}", f'data={{source="{source}"}}']
    short_run(parse_scenario(SMALL, "tiny", [*overrides, "rounds=1", "algorithm.local.steps=1"]), tmp_path)


@pytest.mark.parametrize("privacy", ["none", "example"])
@pytest.mark.parametrize("trainer", ["vectorised", "opacus"])
@pytest.mark.parametrize("kind", TASKS)
def test_every_task_runs_with_every_trainer(kind, trainer, privacy, tmp_path):
    overrides = ["population.partition={kind='iid'}", "algorithm.local.steps=2", f"engine.trainer={trainer}"]
    scenario = parse_scenario(SMALL + PRIVACY[privacy], "tiny", [*overrides, "rounds=2"])
    result = short_run(replace(scenario, task=TASKS[kind](), **TASK_RUNS[kind]), tmp_path)
    assert result.summary["task"] == kind
    untrained = build_federation(replace(scenario, task=TASKS[kind](), **TASK_RUNS[kind]))
    assert result.metrics["loss"] != untrained.task.evaluate(untrained.module)["loss"]


@pytest.mark.parametrize("kind", PARTITIONS)
def test_every_partition_runs(kind, tmp_path, monkeypatch):
    if kind == "natural":  # the digits have no owners of their own
        monkeypatch.setattr(Digits, "load", owned_digits)
    short_run(parse_scenario(SMALL, "tiny", [f'population.partition={{kind="{kind}"}}', "rounds=1"]), tmp_path)


@pytest.mark.parametrize("privacy", PRIVACY)
@pytest.mark.parametrize("name", MODELS)
def test_every_model_runs_with_every_unit_of_privacy(name, privacy, tmp_path, monkeypatch):
    """On one of the sample data that fit it, of which there must be one; on another one with each unit."""
    tasks = list(tasks_of(MODELS[name]()).values())
    task = tasks[list(PRIVACY).index(privacy) % len(tasks)]
    monkeypatch.setattr(Digits, "load", lambda self, seed: task.data)
    overrides = [
        f'model={{name="{name}"}}',
        f'task={{kind="{task.objective.kind}"}}',
        "population.partition={kind='iid'}",
    ]
    overrides += ["rounds=1", "algorithm.local.steps=2"]
    short_run(parse_scenario(SMALL + PRIVACY[privacy], "tiny", overrides), tmp_path)


@pytest.mark.parametrize("privacy", PRIVACY)
@pytest.mark.parametrize("kind", SAMPLINGS)
def test_every_cohort_sampling_runs_with_every_unit_of_privacy(kind, privacy, tmp_path):
    size = {"fixed": ", size=3", "poisson": ", rate=0.6"}.get(kind, "")  # defaults are for larger populations
    overrides = [f'cohort.sampling={{kind="{kind}"{size}}}', "rounds=2"]
    short_run(parse_scenario(SMALL + PRIVACY[privacy], "tiny", overrides), tmp_path)


@pytest.mark.parametrize("privacy", PRIVACY)
@pytest.mark.parametrize("kind", COMPRESSIONS)
def test_every_compression_runs_with_every_unit_of_privacy(kind, privacy, tmp_path):
    overrides = [f'communication.compression={{kind="{kind}"}}', 'cohort.sampling={kind="poisson", rate=0.6}']
    short_run(parse_scenario(SMALL + PRIVACY[privacy], "tiny", [*overrides, "rounds=2"]), tmp_path)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_runs(kind, tmp_path):
    overrides = [f'algorithm.local.schedule={{kind="{kind}"}}', "algorithm.local.warmup_rounds=1", "rounds=2"]
    short_run(parse_scenario(SMALL, "tiny", overrides), tmp_path)


@pytest.mark.parametrize("kind", ATTACKS)
def test_every_attack_runs_and_is_recorded(kind, tmp_path):
    """With one of the units of privacy, in turn."""
    privacy = list(PRIVACY.values())[list(ATTACKS).index(kind) % len(PRIVACY)]
    overrides = [f'attack={{kind="{kind}"}}', "rounds=2"]
    attack = short_run(parse_scenario(SMALL + privacy, "tiny", overrides), tmp_path).summary["attack"]
    assert (attack["kind"], attack["attackers"], attack["clients"]) == (kind, 1, 6)
