"""The command line as a person meets it: what is printed where, exit codes, files, and going on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.torch import load_file

import fedsim
from fedsim.cli import main
from fedsim.data import Dataset, Digits, Examples
from fedsim.schema import adapter
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL

BOTH = SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY
PROMISED_FILES = {
    "scenario.toml",
    "environment.json",
    "rounds.jsonl",
    "ledger.db",
    "model.safetensors",
    "checkpoint",
    "summary.json",
    "report.html",
}
PROMISED_COLUMNS = [
    "round",
    "seconds",
    "cohort",
    "dropped",
    "loss",
    "accuracy",
    "bytes_up",
    "bytes_down",
    "epsilon_example",
    "epsilon_client",
]
PROMISED_SUMMARY = {
    "scenario",
    "digest",
    "engine",
    "trainer",
    "device",
    "rounds",
    "metrics",
    "privacy",
    "seconds",
    "bytes",
    "memory",
}
PROMISED_PRIVACY = {
    "unit",
    "epsilon",
    "delta",
    "relation",
    "adversary",
    "accountant",
    "sampling",
    "noise_multiplier",
    "rate",
    "steps",
    "clients",
    "randomness",
}


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder with ``scenario.toml``, a small run of both units of privacy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("FEDSIM_DATA", raising=False)
    (tmp_path / "scenario.toml").write_text(BOTH)
    return tmp_path


@pytest.fixture
def call(here, monkeypatch, capsys):
    """``call("run", "x.toml")`` is ``fedsim run x.toml`` in this process."""

    def run(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["fedsim", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Answer(code, *capsys.readouterr())

    return run


def started(*arguments: str) -> Answer:
    """``fedsim ...`` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fedsim.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def assert_refused(answer: Answer, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one paragraph on stderr that holds the words."""
    assert answer.code == 2, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.strip()
    assert "\n\n" not in answer.err.strip()
    for word in words:
        assert word in answer.err


# Commands that answer


def test_help_lists_the_commands_without_importing_anything_heavy():
    program = (
        "import sys\nfrom fedsim.cli import main\nsys.argv = ['fedsim', '--help']\nmain()\n"
        "heavy = {'torch', 'numpy', 'flwr', 'opacus', 'sklearn', 'scipy', 'matplotlib', 'dp_accounting', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    for command in ("run", "resume", "sweep", "report", "check", "list", "schema", "plan"):
        assert f" {command} " in done.stdout
    assert done.stderr.strip() == "[]"


def test_every_commands_help_names_its_options(call):
    for command in ("run", "resume", "sweep", "report", "check", "list", "schema", "plan"):
        answer = call(command, "--help")
        assert (answer.code, answer.err) == (0, "")
        assert f"fedsim {command}" in answer.out
    assert "--set" in call("run", "--help").out


def test_the_installed_commands_answer(here):
    assert (here / "scenario.toml").exists()
    check = started("check", "scenario.toml", "--set", "population.clients=4")
    assert check.code == 0, check
    assert "4 clients, 1438 training records, 610 parameters" in check.out
    assert check.err == ""
    assert set(listing(here)) == {"scenario.toml"}
    schema = started("schema")
    assert schema.code == 0
    assert json.loads(schema.out) == adapter().json_schema()


def test_list_names_everything_a_scenario_may_name(call):
    answer = call("list")
    assert (answer.code, answer.err) == (0, "")
    for word in ("data.source", "digits", "dirichlet", "fedprox", "poisson", "opacus", "adamw"):
        assert word in answer.out


def test_check_writes_nothing_and_shows_the_digest(call, here):
    answer = call("check", "scenario.toml")
    assert answer.code == 0
    assert fedsim.load_scenario(here / "scenario.toml").digest in answer.out
    assert set(listing(here)) == {"scenario.toml"}


def test_check_prints_the_notes_on_the_data(call):
    answer = call("check", "scenario.toml", "--set", "evaluation.folds=3")
    assert answer.code == 0
    assert answer.out.splitlines()[1].startswith("note: The source's 359 test records belong to the clients too")


# Running


def test_run_prints_json_alone_and_leaves_what_is_promised(call, here):
    answer = started("run", "scenario.toml", "--json", "--out", "run")
    assert answer.code == 0, answer
    assert answer.err == ""
    summary = json.loads(answer.out)
    run = here / "run"
    assert summary == json.loads((run / "summary.json").read_text())
    assert set(summary) >= PROMISED_SUMMARY
    assert set(summary["metrics"]) >= {"accuracy", "loss"}
    assert set(summary["seconds"]) == {"total", "setup", "round_median"}
    assert set(summary["bytes"]) == {"up", "down"}
    assert 2**20 < summary["memory"]["peak_bytes"] < 2**36
    assert [entry["unit"] for entry in summary["privacy"]] == ["example", "client"]
    for entry in summary["privacy"]:
        assert set(entry) >= PROMISED_PRIVACY
        assert set(entry["clients"]) == {"max", "median", "min"}
        assert entry["clients"]["max"] == entry["epsilon"] > 0
    assert {path.name for path in run.iterdir()} >= PROMISED_FILES
    assert not [path for path in run.rglob("*") if path.name.endswith((".part", "-wal", "-shm", "-journal"))]
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    assert [list(row) for row in rows] == [PROMISED_COLUMNS] * 3
    assert rows[-1]["accuracy"] == summary["metrics"]["accuracy"]
    assert summary["bytes"] == {name: sum(row[f"bytes_{name}"] for row in rows) for name in ("up", "down")}
    assert rows[-1]["bytes_down"] == 6 * 4 * 610
    kept = fedsim.load_scenario(run / "scenario.toml")
    assert kept.digest == summary["digest"]
    assert sum(tensor.numel() for tensor in load_file(run / "model.safetensors").values()) == 610
    page = (run / "report.html").read_text()
    assert "<html" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
    assert call("run", "scenario.toml", "--out", "again").code == 0
    assert_same_run(run, here / "again")  # in another process, too


def test_run_without_options_makes_a_directory_named_after_scenario_digest_and_time(call, here):
    answer = call("run", "scenario.toml", "--set", "rounds=1", "--quiet")
    assert answer.code == 0, answer
    digest = fedsim.load_scenario(here / "scenario.toml", ["rounds=1"]).digest
    (run,) = (here / "runs").iterdir()
    assert run.name.startswith(f"scenario-{digest}-2")
    for words in ("1 of 1 rounds", "accuracy", "privacy, example level: epsilon", str(run.relative_to(here))):
        assert words in answer.out
    assert answer.err == ""


def test_a_run_without_privacy_says_infinity(call, here):
    (here / "scenario.toml").write_text(SMALL)
    answer = call("run", "scenario.toml", "--out", "run")
    assert "privacy: none (epsilon = infinity)" in answer.out
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert [(entry["unit"], entry["epsilon"]) for entry in summary["privacy"]] == [("none", "inf")]


def test_progress_is_shown_on_a_terminal_and_not_with_quiet_or_json(call, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    assert "round" in call("run", "scenario.toml", "--out", "a").err
    assert call("run", "scenario.toml", "--out", "b", "--quiet").err == ""
    answer = call("run", "scenario.toml", "--out", "c", "--json")
    assert answer.err == ""
    assert json.loads(answer.out)["rounds"] == 3


def test_report_rebuilds_the_page_from_the_record(call, here):
    call("run", "scenario.toml", "--out", "run")
    page = (here / "run" / "report.html").read_text()
    (here / "run" / "report.html").unlink()
    answer = call("report", "run")
    assert (answer.code, answer.out.strip()) == (0, "run/report.html")
    assert (here / "run" / "report.html").read_text() == page


# Bad input


def test_an_existing_run_directory_is_left_alone(call, here):
    (here / "taken").mkdir()
    (here / "taken" / "precious.txt").write_text("mine")
    before = listing(here)
    assert_refused(call("run", "scenario.toml", "--out", "taken"), "taken exists already")
    assert listing(here) == before


MODELS = """
from torch import nn
def batch_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
def group_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Linear(8, 10))
"""
REFUSED = {
    "missing file": (["nowhere.toml"], ["nowhere.toml", "No such file"]),
    "a folder": (["."], ["cannot be read"]),
    "not TOML": (["notes.txt"], ["notes.txt", "not valid TOML"]),
    "unknown key": (["scenario.toml", "--set", "population.cleints=3"], ["population.cleints", '"clients"']),
    "wrong type": (["scenario.toml", "--set", 'rounds="3"'], ['rounds = "3"']),
    "bad --set": (["scenario.toml", "--set", "rounds"], ["--set rounds"]),
    "more clients than records": (
        ["scenario.toml", "--set", "population.clients=480", "--set", "privacy.client.delta=1e-3"],
        ["population.clients = 480", "1440", "1438"],
    ),
    "no noise": (["scenario.toml", "--set", "privacy.example.noise_multiplier=0"], ["privacy.example.noise"]),
    "noise and target": (["scenario.toml", "--set", "privacy.client.target_epsilon=1"], ["privacy.client"]),
    "epsilon of 1000": (["scenario.toml", "--set", "privacy.client.budget=1000"], ["privacy.client.budget = 1000"]),
    "client delta": (["scenario.toml", "--set", "privacy.client.delta=0.5"], ["privacy.client.delta = 0.5"]),
    "example delta": (["scenario.toml", "--set", "privacy.example.delta=0.1"], ["privacy.example.delta = 0.1"]),
    "batch norm": (["scenario.toml", "--set", "model={name='own_layers:batch_norm'}"], ["BatchNorm1d", "GroupNorm"]),
    "no such model": (["scenario.toml", "--set", "model={name='own_layers:none'}"], ["own_layers:none"]),
    "no data": (["scenario.toml", "--set", "data={source='mnist'}"], ["train-images-idx3-ubyte", "FEDSIM_DATA"]),
    "wrong option": (["scenario.toml", "--ouput", "x"], ["--ouput"]),
    "no scenario": ([], ["SCENARIO"]),
    "resume nothing": (["scenario.toml", "--resume"], ["--out"]),
    "out below a file": (["scenario.toml", "--out", "notes.txt/run"], ["notes.txt/run"]),
}


@pytest.fixture
def own_layers(here):
    (here / "own_layers.py").write_text(MODELS)
    (here / "notes.txt").write_text("not a scenario")
    yield
    sys.modules.pop("own_layers", None)
    shutil.rmtree(here / "__pycache__", ignore_errors=True)


@pytest.mark.usefixtures("own_layers")
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_paragraph_and_nothing_is_written(case, call, here, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    arguments, words = REFUSED[case]
    before = listing(here)
    assert_refused(call("run", *arguments), *words)
    assert listing(here) == before


@pytest.mark.usefixtures("own_layers")
def test_group_norm_is_taken_where_batch_norm_is_refused(call):
    answer = call("run", "scenario.toml", "--set", "model={name='own_layers:group_norm'}", "--set", "rounds=1")
    assert answer.code == 0, answer


@pytest.mark.usefixtures("own_layers")
def test_bad_input_is_refused_by_the_installed_command_too(here):
    before = listing(here)
    answer = started("run", "scenario.toml", "--set", "population.cleints=3", "--set", "seed=x")
    assert_refused(answer, "population.cleints = 3", 'seed = "x"', "2 problems")
    assert listing(here) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite_is_refused_before_anything_is_written(value, call, here, monkeypatch):
    load = Digits.load

    def broken(self, seed: int) -> Dataset:
        data = load(self, seed)
        features = data.train.features.copy()
        features[7, 0, 3, 3] = value
        return replace(data, train=Examples(features, data.train.labels))

    monkeypatch.setattr(Digits, "load", broken)
    before = listing(here)
    assert_refused(call("run", "scenario.toml"), "training data", "NaN or infinite", "number 7")
    assert listing(here) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], ["frobnicate"]),
        (["--frobnicate"], ["--frobnicate"]),
        (["resume", "nowhere"], ["nowhere is not a run directory"]),
        (["resume", "."], ["is not a run directory"]),
        (["report", "nowhere"], ["nowhere has no summary.json"]),
        (["check", "nowhere.toml"], ["nowhere.toml"]),
        (["check", "scenario.toml", "--set", "seed=-1"], ["seed = -1"]),
        (["list", "models"], ["models"]),
    ],
)
def test_other_commands_refuse_bad_input_too(arguments, words, call, here):
    if arguments == ["resume", "."]:
        (here / "scenario.toml").unlink()
    before = listing(here)
    assert_refused(call(*arguments), *words)
    assert listing(here) == before


def test_debug_shows_the_traceback_and_the_paragraph(call):
    answer = call("run", "nowhere.toml", "--debug")
    assert answer.code == 2
    assert "Traceback (most recent call last)" in answer.err
    assert answer.err.rstrip().splitlines()[-1].startswith("The scenario file nowhere.toml cannot be read")


def test_what_nobody_foresaw_exits_with_one_and_no_traceback(call, monkeypatch):
    def broken(self, seed: int) -> Dataset:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(Digits, "load", broken)
    answer = call("run", "scenario.toml")
    assert answer.code == 1
    assert "Traceback" not in answer.err
    assert "by nought" in answer.err
    assert "--debug" in answer.err


def test_diverged_training_exits_with_one_and_says_what_to_do(call, here):
    (here / "scenario.toml").write_text(SMALL)
    answer = call("run", "scenario.toml", "--out", "run", "--set", "algorithm.server.learning_rate=1e38")
    assert answer.code == 1
    assert "diverged" in answer.err
    assert "Lower a learning rate" in answer.err
    assert "Traceback" not in answer.err


# The budget


@pytest.mark.parametrize("unit", ["example", "client"])
def test_an_exhausted_budget_exits_with_three_and_keeps_the_model_and_the_record(unit, call, here):
    free = call("run", "scenario.toml", "--out", "free", "--json")
    (epsilon,) = (entry["epsilon"] for entry in json.loads(free.out)["privacy"] if entry["unit"] == unit)
    budget = 0.9 * epsilon  # three rounds spend more than this, two spend less
    answer = call("run", "scenario.toml", "--out", "run", "--set", f"privacy.{unit}.budget={budget}")
    assert answer.code == 3
    assert f"{unit}-level budget" in answer.err
    assert "Traceback" not in answer.err
    run = here / "run"
    assert {path.name for path in run.iterdir()} >= PROMISED_FILES
    rows = (run / "rounds.jsonl").read_text().splitlines()
    assert len(rows) == 2
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("budget_exhausted", 2)
    (spent,) = (entry["epsilon"] for entry in summary["privacy"] if entry["unit"] == unit)
    assert 0.5 * budget < spent <= budget
    # What is kept is the model after the second round, and nothing of the third was charged.
    assert call("run", "scenario.toml", "--out", "two", "--set", "rounds=2").code == 0
    assert (run / "model.safetensors").read_bytes() == (here / "two" / "model.safetensors").read_bytes()
    with sqlite3.connect(run / "ledger.db") as db:
        assert db.execute("SELECT MAX(round) FROM charges").fetchone() == (2,)
    db.close()
    again = call("resume", "run")
    assert again.code == 3
    assert len((run / "rounds.jsonl").read_text().splitlines()) == 2


def test_a_target_epsilon_is_never_exceeded(call, here):
    text = BOTH.replace("noise_multiplier = 1.1", "target_epsilon = 2.0").replace(
        "noise_multiplier = 1.2", "target_epsilon = 3.0"
    )
    (here / "scenario.toml").write_text(text)
    answer = call("run", "scenario.toml", "--json")
    assert answer.code == 0, answer
    example, client = json.loads(answer.out)["privacy"]
    assert 1.9 < example["epsilon"] <= 2.0
    assert 2.9 < client["epsilon"] <= 3.0


# Planning


def plan(call, *arguments: str) -> dict:
    answer = call("plan", *arguments, "--json")
    assert answer.code == 0, answer
    assert answer.err == ""
    return json.loads(answer.out)


QUESTION = ("--rate", "0.005", "--steps", "1500", "--delta", "1e-6")


def test_the_installed_plan_gives_the_published_epsilon(here):
    answer = started("plan", *QUESTION, "--noise", "1.0", "--json")
    assert (answer.code, answer.err) == (0, "")
    result = json.loads(answer.out)
    assert set(result) == {"epsilon", "delta", "accountant", "rdp", "prv", "relation", "sampling"}
    assert result["epsilon"] == pytest.approx(1.2291, abs=3e-4)
    assert (result["delta"], result["accountant"], result["relation"]) == (1e-6, "pld", "add-remove")
    assert result["epsilon"] <= result["rdp"]


def test_plan_finds_the_noise_that_gives_the_epsilon(call):
    found = plan(call, *QUESTION, "--target-epsilon", "1.2291")
    assert found["noise_multiplier"] == pytest.approx(1.0, rel=1e-3)
    assert 1.2291 * (1 - 1e-3) <= found["epsilon"] <= 1.2291
    again = plan(call, *QUESTION, "--noise", str(found["noise_multiplier"]))
    assert again["epsilon"] == found["epsilon"]
    less = plan(call, *QUESTION, "--noise", str(found["noise_multiplier"] * 0.99))
    assert less["epsilon"] > 1.2291


def test_plan_knows_the_gaussian_mechanism_in_closed_form(call):
    """One release without sub-sampling: delta of epsilon as in Balle and Wang 2018, theorem 8 (arXiv 1805.06530)."""
    from scipy.stats import norm

    result = plan(call, "--sampling", "none", "--noise", "2.0", "--steps", "1", "--delta", "1e-5")
    epsilon, sigma = result["epsilon"], 2.0
    delta = norm.cdf(0.5 / sigma - epsilon * sigma) - np.exp(epsilon) * norm.cdf(-0.5 / sigma - epsilon * sigma)
    assert delta == pytest.approx(1e-5, rel=1e-3)
    replaced = plan(
        call, "--sampling", "none", "--relation", "replace-one", "--noise", "4", "--steps", "1", "--delta", "1e-5"
    )
    assert replaced["epsilon"] == pytest.approx(epsilon, rel=1e-6)  # replacing doubles the sensitivity


def test_plan_answers_for_fixed_cohorts(call):
    fixed = ("--sampling", "fixed", "--population", "1000", "--cohort", "10", "--steps", "100", "--noise", "2.0")
    result = plan(call, *fixed)
    assert (result["relation"], result["sampling"], result["delta"]) == ("replace-one", "fixed", 1e-5)
    assert result["epsilon"] > 0


def test_plan_without_json_is_readable_lines(call):
    answer = call("plan", *QUESTION, "--noise", "1.0")
    assert answer.code == 0
    assert "epsilon: 1.229" in answer.out


def test_plan_predicts_what_a_run_spends_and_the_ledger_says_the_same(call, here):
    predicted = {unit["unit"]: unit["epsilon"] for unit in plan(call, "scenario.toml")["privacy"]}
    assert set(listing(here)) == {"scenario.toml"}
    run = json.loads(call("run", "scenario.toml", "--out", "run", "--json").out)
    spent = {entry["unit"]: entry["epsilon"] for entry in run["privacy"]}
    assert predicted == pytest.approx(spent)
    result = plan(call, "--ledger", "run/ledger.db", "--delta", "1e-4")
    assert result["clients"] == 6
    assert result["units"]["example"]["epsilon"] == pytest.approx(spent["example"])
    assert result["units"]["client"]["events"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "SCENARIO"),
        (["--noise", "1", "--rate", "0.1"], "--steps"),
        (["--steps", "10", "--rate", "0.1"], "exactly one of --noise and --target-epsilon"),
        (["--steps", "10", "--rate", "0.1", "--noise", "1", "--target-epsilon", "1"], "exactly one"),
        (["--steps", "10", "--noise", "1"], "--rate"),
        (["--steps", "10", "--noise", "1", "--rate", "1.5"], "rate"),
        (["--steps", "10", "--noise", "1", "--rate", "-0.1"], "rate"),
        (["--steps", "10", "--noise", "1", "--rate", "nan"], "rate"),
        (["--steps", "10", "--noise", "1", "--rate", "x"], "--rate"),
        (["--steps", "-1", "--noise", "1", "--rate", "0.1"], "--steps -1"),
        (["--steps", "1.5", "--noise", "1", "--rate", "0.1"], "--steps"),
        (["--steps", "10", "--noise", "-1", "--rate", "0.1"], "--noise -1"),
        (["--steps", "10", "--noise", "nan", "--rate", "0.1"], "--noise nan"),
        (["--steps", "10", "--noise", "1", "--rate", "0.1", "--delta", "0"], "--delta"),
        (["--steps", "10", "--noise", "1", "--rate", "0.1", "--delta", "1"], "--delta"),
        (["--steps", "10", "--noise", "1", "--rate", "0.1", "--delta", "nan"], "--delta"),
        (["--steps", "10", "--target-epsilon", "0", "--rate", "0.1"], "--target-epsilon"),
        (["--steps", "10", "--target-epsilon", "nan", "--rate", "0.1"], "--target-epsilon"),
        (["--steps", "10", "--noise", "1", "--rate", "0.1", "--relation", "zero"], "--relation zero"),
        (["--steps", "10", "--noise", "1", "--rate", "0.1", "--sampling", "shuffled"], "--sampling shuffled"),
        (["--steps", "10", "--noise", "1", "--rate", "0.1", "--sampling", "none"], "--rate 0.1"),
        (
            ["--steps", "9", "--noise", "1", "--rate", "0.1", "--sampling", "fixed", "--relation", "add-remove"],
            "--sampling fixed",
        ),
        (["--steps", "10", "--noise", "1", "--population", "10", "--cohort", "11"], "--cohort 11"),
        (["--steps", "10", "--noise", "1", "--population", "10", "--cohort", "5", "--delta", "0.1"], "--delta 0.1"),
        (["--ledger", "nowhere.db"], "nowhere.db"),
        (["--ledger", "scenario.toml"], "not a privacy ledger"),
        (["--ledger", "other.db"], "not a privacy ledger"),
        (["nowhere.toml"], "nowhere.toml"),
        (["scenario.toml", "--set", "sed=1"], "sed = 1"),
    ],
)
def test_a_plan_question_that_has_no_answer_is_refused(arguments, words, call, here):
    (here / "other.db").touch()  # an empty file is a valid SQLite database without tables
    before = listing(here)
    assert_refused(call("plan", *arguments), words)
    assert listing(here) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "10", "--target-epsilon", "inf", "--rate", "0.1"], "--target-epsilon inf"),
        (["--steps", "10", "--noise", "1e-9", "--rate", "0.1"], "--noise"),
        (["--steps", "10", "--noise", "1", "--population", "0", "--cohort", "0"], "--population 0"),
        (["--steps", "10", "--noise", "1", "--rate", "0.1", "--population", "9", "--cohort", "3"], "--rate"),
        (["scenario.toml", "--steps", "10"], "--steps 10"),
        (["--ledger", "run/ledger.db", "--delta", "2"], "--delta 2"),
    ],
)
def test_a_question_outside_the_accountants_range_is_refused(arguments, words, call):
    if "--ledger" in arguments:
        assert call("run", "scenario.toml", "--out", "run").code == 0
    assert_refused(call("plan", *arguments), words)


def test_asking_a_ledger_leaves_the_run_directory_as_it_was(call, here):
    assert call("run", "scenario.toml", "--out", "run").code == 0
    before = listing(here)
    assert call("plan", "--ledger", "run/ledger.db").code == 0
    assert listing(here) == before


# Stopping and going on

# Everything that has a state: server momentum, dropout, drawn cohorts, a ledger, and an early stop that is near.
STATEFUL = """
seed = 11
rounds = 5
[data]
source = "digits"
[population]
clients = 8
partition = { kind = "dirichlet", alpha = 1.0, min_size = 5 }
[model]
name = "mlp"
hidden = [6]
dropout = 0.2
[algorithm]
name = "fedprox"
local = { steps = 2, batch_size = 32, optimizer = "adam", learning_rate = 0.01 }
server = { optimizer = "adam", learning_rate = 0.05 }
[cohort]
sampling = { kind = "poisson", rate = 0.6 }
[privacy.example]
clip_norm = 1.0
noise_multiplier = 1.0
delta = 1e-4
budget = 40.0
[privacy.client]
clip_norm = 0.5
noise_multiplier = 1.0
delta = 1e-2
[evaluation]
early_stopping = { patience = 4 }
"""
KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
import fedsim
from fedsim.record import RunDirectory

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

where = sys.argv[1]
if where == "before the checkpoint":
    save = RunDirectory.save_checkpoint
    RunDirectory.save_checkpoint = lambda self, tensors, p: die() if p.round == 3 else save(self, tensors, p)
elif where == "in the first round":
    RunDirectory.append_round = die
fedsim.run(fedsim.load_scenario("scenario.toml"), "killed")
"""


def rows_without_time(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_run(one: Path, two: Path) -> None:
    """The same rounds, model and privacy, to the bit."""
    assert rows_without_time(one) == rows_without_time(two)
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    first, second = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    for key in ("metrics", "privacy", "rounds", "status", "bytes", "digest"):
        assert first[key] == second[key]
    assert charges(one) == charges(two)


def charges(run: Path) -> list[tuple]:
    db = sqlite3.connect(run / "ledger.db")
    rows = db.execute(
        "SELECT round, unit, noise_multiplier, rate, count, clients FROM charges ORDER BY round, unit, id"
    ).fetchall()
    db.close()
    return rows


@pytest.mark.parametrize(
    ("where", "rounds", "checkpoints"),
    [
        ("before the checkpoint", 3, 2),
        ("in the first round", 0, 0),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(where, rounds, checkpoints, call, here):
    (here / "scenario.toml").write_text(STATEFUL)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, where], env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL
    run = here / "killed"
    assert not (run / "summary.json").exists()
    kept = (run / "rounds.jsonl").read_text().splitlines() if rounds else []
    assert len(kept) == rounds
    assert len(list((run / "checkpoint").iterdir())) == checkpoints
    assert_refused(call("run", "scenario.toml", "--out", "killed"), "--resume")
    if where == "before the checkpoint":
        answer = started("resume", "killed", "--json")
    else:
        answer = call("run", "scenario.toml", "--out", "killed", "--resume", "--json")
    assert answer.code == 0, answer
    assert call("run", "scenario.toml", "--out", "whole").code == 0
    assert len(rows_without_time(here / "whole")) == 5
    assert_same_run(run, here / "whole")
    assert {path.name for path in run.iterdir()} >= PROMISED_FILES


def test_an_interrupted_run_exits_with_130_says_how_to_go_on_and_goes_on(call, here, monkeypatch):
    (here / "scenario.toml").write_text(STATEFUL)

    def interrupt(self, row) -> None:
        if row["round"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fedsim.console.Display.on_round", interrupt)
        answer = call("run", "scenario.toml", "--out", "stopped")
    assert answer.code == 130
    assert "fedsim resume stopped" in answer.err
    summary = json.loads((here / "stopped" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("interrupted", 2)
    assert (here / "stopped" / "report.html").exists()
    assert call("resume", "stopped").code == 0
    assert call("run", "scenario.toml", "--out", "whole").code == 0
    assert_same_run(here / "stopped", here / "whole")


def test_resuming_a_finished_run_changes_nothing_and_spends_nothing(call, here):
    assert call("run", "scenario.toml", "--out", "run").code == 0
    shutil.copytree(here / "run", here / "before")
    assert call("resume", "run").code == 0
    assert_same_run(here / "run", here / "before")
    assert (here / "run" / "rounds.jsonl").read_text() == (here / "before" / "rounds.jsonl").read_text()


def test_resume_refuses_a_run_of_another_scenario(call, here):
    assert call("run", "scenario.toml", "--out", "run").code == 0
    before = listing(here)
    answer = call("run", "scenario.toml", "--out", "run", "--resume", "--set", "rounds=9")
    assert_refused(answer, "another scenario", "fedsim resume run")
    assert listing(here) == before


def test_resume_with_a_new_directory_starts_a_run(call, here):
    assert call("run", "scenario.toml", "--out", "new", "--resume").code == 0
    assert {path.name for path in (here / "new").iterdir()} >= PROMISED_FILES


def test_early_stopping_ends_with_success(call, here):
    stopping = "evaluation.early_stopping={patience=2}"
    (here / "scenario.toml").write_text(SMALL)
    answer = call(
        "run", "scenario.toml", "--json", "--set", stopping, "--set", "rounds=50", "--set",
        "algorithm.server.learning_rate=50.0",
    )  # fmt: skip
    assert answer.code == 0, answer
    summary = json.loads(answer.out)
    assert summary["status"] == "early_stopped"
    assert summary["rounds"] < 50


# From Python


def test_every_command_is_a_public_function(here):
    result = fedsim.run(fedsim.load_scenario(here / "scenario.toml"), here / "run")
    assert result.directory == here / "run"
    assert result.metrics["accuracy"] == result.summary["metrics"]["accuracy"]
    assert [entry["unit"] for entry in result.privacy] == ["example", "client"]
    assert fedsim.resume(here / "run").summary["rounds"] == 3
    assert fedsim.build_report(here / "run") == here / "run" / "report.html"
    assert all(getattr(fedsim, name) for name in fedsim.__all__)
    with pytest.raises(AttributeError):
        _ = fedsim.nothing
