"""The same numbers again: tests/conformance/same.py has what is compared, and how closely, in one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fedsim.server
from tests.conformance.axes import Choice, axes, choices
from tests.conformance.guard import seeded
from tests.conformance.playing import play
from tests.conformance.same import TOLERANCE, built, check_same
from tests.conftest import settings_of, why_not

ROOT = Path(__file__).parents[2]
TRAINERS = axes()["engine.trainer"]
# Of optimizers, which do the same with every value, the campaign has the runs.
REPEATED = [choice for choice in choices() if choice.name != "secure" and not choice.axis.endswith("optimizer")]


def trained(number: int, choice: Choice) -> list[Choice]:
    """The trainers in turn: the first of them that can train it is taken."""
    turn = number % len(TRAINERS)
    return (
        [Choice("engine.trainer", "auto", ())] if choice.axis == "engine.trainer" else TRAINERS[turn:] + TRAINERS[:turn]
    )


@pytest.mark.parametrize(("number", "choice"), list(enumerate(REPEATED)), ids=str)
def test_a_run_does_not_depend_on_seeds_elsewhere_nor_on_order_blocks_threads_and_nodes(number, choice, tmp_path):
    """Each choice with one of the trainers; the campaign has each with all of them."""
    for trainer in trained(number, choice):
        refused = check_same(tmp_path, choice, trainer)
        if refused is None:
            return
        assert "engine.trainer" in refused, refused
    raise AssertionError(f"no trainer can train {choice}")


def test_every_trainer_says_how_close_it_is():
    assert TOLERANCE.keys() == {choice.name for choice in TRAINERS}


@pytest.mark.usefixtures("secure_randomness")
def test_secure_randomness_is_another_every_time(tmp_path):
    assert check_same(tmp_path, *(choice for choice in choices() if choice.name == "secure")) is None


def weighed_by_place(federation, clients):
    """Clients weighed by where in a block they are."""
    return torch.arange(len(clients)) + 1.0


@pytest.mark.parametrize("way", ["order", "blocks"])
def test_a_difference_is_found(way, tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.updates.client_weights", weighed_by_place)
    if way == "order":
        monkeypatch.setattr("fedsim.client.blocks", lambda federation, clients: [clients])
    with pytest.raises(AssertionError, match=way):
        check_same(tmp_path, axes()["algorithm.name"][0])


def test_noise_from_a_global_generator_is_found(tmp_path, monkeypatch):
    release = fedsim.server.release
    monkeypatch.setattr(fedsim.server, "release", lambda *args: release(*args) + 1e-6 * torch.rand(1))
    with seeded(0), pytest.raises(AssertionError, match="order"):
        check_same(tmp_path, axes()["algorithm.name"][0])


# Of every trainer, of noise, of batches that are drawn, and of sets and dictionaries: what a hash or a thread may move.
ELSEWHERE = {
    trainer.name: [
        f"engine.trainer={trainer.name}",
        *settings_of("scaffold"),
        "algorithm.local.steps=2",
        'cohort.sampling={kind="poisson", rate=0.6}',
        "privacy.client={clip_norm=0.4, noise_multiplier=1.2, delta=1e-2}",
        "rounds=2",
    ]
    for trainer in TRAINERS
}
SCRIPT = """
import json, sys, tempfile, torch
from pathlib import Path
from tests.conformance.playing import play
from tests.conformance.same import built
torch.set_num_threads(2)
digests = {}
with tempfile.TemporaryDirectory() as folder:
    for name, overrides in json.loads(sys.argv[1]).items():
        played = play(built(overrides), Path(folder) / name)
        digests[name] = played.digest
print(json.dumps(digests))
"""


def test_another_process_with_other_hashes_and_threads_finds_the_same(tmp_path):
    """Here strings hash at random and torch has one thread; there the hashes are fixed and there are two."""
    able = {name: own for name, own in ELSEWHERE.items() if why_not(built([]), name) is None}
    here = {name: play(built(own), tmp_path / name) for name, own in able.items()}
    hashes = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = os.environ | {"PYTHONHASHSEED": hashes, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(able)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {name: played.digest for name, played in here.items()}
