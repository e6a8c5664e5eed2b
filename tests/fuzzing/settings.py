"""Scenario files, values set on the command line, sweep files and sites' settings."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import tomli_w

import fedsim
import fedsim.running
from fedsim.deployment import texts
from fedsim.deployment.site_settings import load_site
from fedsim.listing import TABLES
from fedsim.loading import load_scenario, parse_scenario
from fedsim.scenario import EngineSettings, Scenario
from fedsim.sweeps.search import PROPOSERS
from fedsim.sweeps.settings import load_sweep
from fedsim.sweeps.trials import check_trials
from tests.fuzzing.mutation import TEXTS, misspelt, mutate_bytes, mutate_tree
from tests.fuzzing.target import Target, tolerated

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SITE = texts.SITE_TOML.format(name="a", server="localhost:9092", seed=7)
RUN_ONE_OF = 6  # valid scenarios, those small enough are run

TOML_WORDS = (
    b"[privacy.client]\nclip_norm = 1.0\nnoise_multiplier = 1.0\ndelta = 1e-3\n",
    b"[privacy.example]\nclip_norm = 1.0\ntarget_epsilon = 4.0\ndelta = 1e-5\n",
    b"[attack]\nkind = 'sign_flip'\nfraction = 0.2\n",
    b"[[data]]\n",
    b"\nx = [" + b"[" * 3000,
    b"\n" + b"a." * 3000 + b"b = 1\n",
    b"\n[" + b"a." * 3000 + b"b]\n",
    b"\nseed = " + b"9" * 5000 + b"\n",
    b"\nseed = 0x" + b"f" * 5000 + b"\n",
    b'\nname = """\n',
    b"\nrounds = 1e400\n",
    b"\nx = 1979-05-27T07:32:00Z\n",
    b"'\\u0000'",
    b'"\\ud800"',
    b"\xef\xbb\xbf",
    b"{" * 900,
    b"= {a = {a = {a = 1}}}",
)


@cache
def scenario_trees() -> tuple[dict[str, Any], ...]:
    """Every shipped scenario, small ones for every entry of every table with its defaults, and some of all sections."""
    raw = [tomllib.loads(file.read_text()) for file in sorted(SCENARIOS.glob("*.toml"))]
    shipped = [tree for tree in raw if "sweep" not in tree]
    return (*shipped, *_entries(), *(tree["base"] for tree in raw if isinstance(tree.get("base"), dict)))


def _entries() -> Iterator[dict[str, Any]]:
    """Each table's entries by name alone, as far as that is a scenario; whole, with every default written out."""
    for key, table in TABLES.items():
        for name in table:
            value: Any = name
            for step in reversed(key.split(".")):
                value = {step: value}
            with tolerated():
                yield parse_scenario(tomli_w.dumps(value), "entry").to_dict()


def sweep_trees() -> tuple[dict[str, Any], ...]:
    """Every shipped sweep, and one of each method."""
    raw = [tomllib.loads(file.read_text()) for file in sorted(SCENARIOS.glob("*.toml"))]
    base = {"rounds": 2, "population": {"clients": 6}, "model": {"name": "logistic"}}
    space = {"algorithm.local.learning_rate": {"low": 0.01, "high": 1.0, "log": True}, "rounds": [1, 2]}
    rounds = {"rounds": {"low": 1, "high": 9, "step": 2}, "model.name": ["logistic", "mlp"]}
    own = [
        {"base": base, "sweep": {"method": "random", "trials": 4, "seeds": [0, 1]}, "space": space},
        {"base": base, "sweep": {"method": "tpe", "trials": 4, "objective": ["accuracy", "bytes"]}, "space": space},
        {"base": base, "sweep": {"method": "grid", "halving": {"first_rounds": 1}}, "space": {"seed": [0]}},
        {"base": base, "sweep": {"method": "grid", "parallel": 2}, "space": rounds},
    ]
    return (*(tree for tree in raw if "sweep" in tree), *own)


def without_none(value: Any) -> Any:
    """The same without what TOML has not: None, and text that is no Unicode."""
    if isinstance(value, dict):
        return {_plain(str(key)): without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value if item is not None]
    return _plain(value) if isinstance(value, str) else value


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def toml_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """A TOML file with other values in other places, or with other text."""
    try:
        tree = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        tree = None
    if tree is None or random.random() < 0.25:
        return mutate_bytes(random, data, words, others)
    trees = sweep_trees() if "sweep" in tree else scenario_trees()
    return toml_of(mutate_tree(random, tree, trees))


def toml_of(tree: Any) -> bytes:
    """A tree as TOML text; one that is no table as the value of a key."""
    tree = without_none(tree if isinstance(tree, dict) else {"rounds": tree})
    return tomli_w.dumps(tree).encode()


def read_scenario(data: bytes, folder: Path) -> Scenario:
    """A scenario that is read is the same when it is written and read again."""
    (folder / "x.toml").write_bytes(data)
    scenario = load_scenario(folder / "x.toml")
    assert parse_scenario(scenario.to_toml(), "x") == scenario
    return scenario


def _run_scenario(data: bytes, folder: Path) -> None:
    fedsim.running.build_report = lambda path: path  # this is a child process
    scenario = read_scenario(data, folder)
    if hashlib.sha256(data).digest()[0] % RUN_ONE_OF == 0 and small(scenario.to_dict()):
        run_one_round(scenario, folder)


def small(tree: Any) -> bool:
    """Whether a scenario is one of a few records and parameters, and all in this process."""
    found = tree.get("data", {}), tree.get("engine", {}), tree.get("communication")
    return found[0].get("source") in ("digits", "synthetic") and all(_few(value) for value in _values(tree))


def _few(value: Any) -> bool:
    return isinstance(value, bool) or not isinstance(value, int) or abs(value) <= 64


def _values(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in ("seed", "rounds", "alphabet", "split_seed"):
                yield from _values(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _values(value)
    else:
        yield tree


def run_one_round(scenario: Scenario, folder: Path) -> None:
    """Run a round, without its report; raises ``BadInput`` for what only the data shows."""
    engine = EngineSettings(trainer=scenario.engine.trainer, device="cpu")
    tiny = replace(scenario, rounds=1, engine=engine, output=None, name="x")
    result = fedsim.run(tiny, folder / "run")
    assert result.summary["status"] in ("completed", "budget_exhausted", "early_stopped")


# Values from the command line


def _override_seeds() -> list[bytes]:
    """A value a line."""
    lines = ["rounds=3", "privacy.client.target_epsilon=2", "model={name='mlp', hidden=[3]}", "algorithm.name=scaffold"]
    lines += ["communication.compression={kind='top_k', share=0.1}", "x", "=", "a.b.c=1", "seed=[1,", "a..b=2"]
    return [line.encode() for line in lines] + ["\n".join(lines[:3]).encode()]


def _run_override(data: bytes, folder: Path) -> None:
    parse_scenario("", "x", data.decode("utf-8", "replace").split("\n"))


def override_mutate(random: Random, data: bytes, words: Sequence[bytes], others: Sequence[bytes]) -> bytes:
    """Other paths and other values."""
    if random.random() < 0.5:
        return mutate_bytes(random, data, words, others)
    tree = random.choice(scenario_trees())
    path = []
    while isinstance(tree, dict) and tree and random.random() < 0.9:
        path.append(random.choice(list(tree)))
        tree = tree[path[-1]]
    value = json.dumps(tree, default=str) if random.random() < 0.5 else random.choice(TEXTS)
    return f"{misspelt(random, '.'.join(path))}={value}".encode("utf-8", "replace")


# Sweeps and sites


def _run_sweep(data: bytes, folder: Path) -> None:
    (folder / "x.toml").write_bytes(data)
    sweep = load_sweep(folder / "x.toml")
    (folder / "sweep.toml").write_text(sweep.to_toml())
    (folder / "base.toml").write_text(tomli_w.dumps(sweep.base))
    again = load_sweep(folder / "sweep.toml")
    assert again.to_toml() == sweep.to_toml()
    if sweep.search.method != "tpe" and (sweep.search.trials or 0) <= 100:
        check_trials(sweep, PROPOSERS[sweep.search.method](sweep, [], {})[:100])


def _run_site(data: bytes, folder: Path) -> None:
    (folder / "site.toml").write_bytes(data)
    load_site(folder)


SETTINGS_TARGETS = {
    "scenario": Target(lambda: [toml_of(tree) for tree in scenario_trees()], _run_scenario, toml_mutate, TOML_WORDS),
    "override": Target(_override_seeds, _run_override, override_mutate, (b".", b"=", b"[", b"{", b'"', b"a." * 3000)),
    "sweep": Target(lambda: [toml_of(tree) for tree in sweep_trees()], _run_sweep, toml_mutate, TOML_WORDS),
    "site": Target(lambda: [SITE.encode()], _run_site, toml_mutate, TOML_WORDS),
}
