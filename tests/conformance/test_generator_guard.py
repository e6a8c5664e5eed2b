"""The guard that every run here is under: whatever global generator is touched in the middle of a run, it tells."""

from __future__ import annotations

import os
import random
import secrets

import numpy as np
import pytest
import torch

import fedsim.record
import fedsim.server
from tests.conformance.guard import seeded, untouched
from tests.conformance.playing import play
from tests.conformance.same import built

TOUCHES = {
    "random.random": ("Python", random.random),
    "random.shuffle": ("Python", lambda: random.shuffle([1, 2, 3])),
    "numpy.random.rand": ("NumPy", np.random.rand),
    "numpy.random.seed": ("NumPy", lambda: np.random.seed(1)),  # noqa: NPY002
    "torch.rand": ("torch", lambda: torch.rand(1)),
    "torch's dropout": ("torch", lambda: torch.nn.functional.dropout(torch.ones(3))),
    "torch.seed": ("torch", torch.seed),
}
ASKS = {"os.urandom": lambda: os.urandom(8), "secrets": lambda: secrets.token_hex(4)}


@pytest.fixture(autouse=True)
def _no_global_generator():
    """Here it is the guard that is tested."""


@pytest.fixture
def planted(monkeypatch):
    """A run in the middle of which something is done."""

    def run(touch, folder):
        release = fedsim.server.release
        monkeypatch.setattr(fedsim.server, "release", lambda *args: (touch(), release(*args))[1])
        play(built(["rounds=1"]), folder)

    return run


@pytest.mark.parametrize("name", TOUCHES)
def test_a_touch_in_the_middle_of_a_run_is_told(planted, tmp_path, name):
    whose, touch = TOUCHES[name]
    with seeded(0), pytest.raises(AssertionError, match=f"{whose}.* global, was used"), untouched():
        planted(touch, tmp_path / "run")


@pytest.mark.parametrize("draws", [1, 5, 700])
def test_draws_from_a_block_of_numbers_that_was_made_before_are_told(draws):
    """NumPy makes 624 numbers at once; those that are left of them move nothing but a position."""
    with seeded(0):
        np.random.rand(3)  # noqa: NPY002
        with pytest.raises(AssertionError, match="NumPy"), untouched():
            np.random.rand(draws)  # noqa: NPY002


@pytest.mark.parametrize("name", ASKS)
def test_randomness_of_the_system_is_told_unless_it_is_wanted(name, monkeypatch):
    """Asked for in fedsim's code: that of the record, whose own id of a run is allowed."""
    asking = {"os": os, "secrets": secrets}
    code = compile(
        f"def planted(): {'os.urandom(8)' if name == 'os.urandom' else 'secrets.token_hex(4)'}",
        fedsim.record.__file__,
        "exec",
    )
    exec(code, asking)
    with pytest.raises(AssertionError, match=r"record.py', 'planted'"), untouched():
        asking["planted"]()
    with untouched():
        fedsim.record.environment()


def test_secure_randomness_asks_the_system_only_where_it_is_wanted(tmp_path):
    wanted = [
        "rounds=1",
        "privacy.client={clip_norm=0.4, noise_multiplier=1.2, delta=1e-2}",
        "privacy.randomness=secure",
    ]
    with pytest.raises(AssertionError, match=r"secure\.py"), untouched():
        play(built(wanted), tmp_path / "one")
    with untouched(secure=True):
        play(built(wanted), tmp_path / "two")


def test_seeds_are_put_back():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    with seeded(5):
        drawn = random.random(), np.random.rand(), float(torch.rand(1))  # noqa: NPY002
    with seeded(5):
        assert drawn == (random.random(), np.random.rand(), float(torch.rand(1)))  # noqa: NPY002
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())  # noqa: NPY002
