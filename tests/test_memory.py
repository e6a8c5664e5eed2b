"""Memory that runs out: blocks are halved and the numbers stay; where that does not help, one clear error."""

from __future__ import annotations

import itertools
import logging
import os
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fedsim
from fedsim import updates
from fedsim.cli import main
from fedsim.client import blocks, train_clients
from fedsim.client_store import ClientStore
from fedsim.errors import FedsimError
from fedsim.memory import OutOfMemory, ran_out
from fedsim.training.opacus import OpacusTrainer
from fedsim.updates import train_one_block
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of, why_not

ERRORS = {
    "python": MemoryError(),
    "numpy": np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(float)),
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8796093022208 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 9.02 GB)"),
    "c++": RuntimeError("std::bad_alloc"),
}
SETTINGS = {
    "plain": ("", ()),
    "both units": (EXAMPLE_PRIVACY + CLIENT_PRIVACY, ()),
    "state": (EXAMPLE_PRIVACY, ("algorithm.name=scaffold",)),
    "local": (CLIENT_PRIVACY + 'placement = "client"\n', ("privacy.client.delta=1e-3",)),
    "stacked": ("", ('algorithm.aggregation={kind="median"}',)),
    "compressed": ("", ('communication.compression={kind="top_k", share=0.1}',)),
}
ROOM = 2


def short_of_memory(monkeypatch, error, room=ROOM):
    """Let every block of more than ``room`` clients fail after it has trained; the lengths of all that were tried."""
    tried = []

    def train(federation, job, work, store, total):
        tried.append(len(work.clients))
        if len(work.clients) > room:
            # All but what changes the clients' state: the store's write comes last, and is left out.
            train_one_block(federation, job, work, store and CopyOf(store), total)
            raise error
        return train_one_block(federation, job, work, store, total)

    monkeypatch.setattr("fedsim.client.train_one_block", train)
    return tried


class CopyOf:
    """A store that can be read, and forgets what is written."""

    def __init__(self, store):
        self.read = store.read

    def write(self, round_, clients, rows):
        """Nothing: memory ran out before."""


def store_of(federation, folder):
    """What clients keep, if they keep anything; each has something already."""
    if not federation.state_size:
        return None
    store = ClientStore(folder, len(federation.population), federation.state_size)
    rows = np.random.default_rng(0).normal(size=(len(federation.population), federation.state_size)) / 100
    store.write(1, np.arange(len(federation.population)), rows.astype(np.float32))
    return store


def assert_same(first, second):
    """Two replies agree: exactly in what is counted and charged, to rounding in the sums."""
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if field.name == "rows" and one is not None:
            order, again = (np.argsort(rows.clients) for rows in (one, other))
            assert np.array_equal(one.clients[order], other.clients[again])
            np.testing.assert_allclose(one.reports[order], other.reports[again], rtol=1e-4, atol=1e-6)
        elif isinstance(one, np.ndarray | float):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
        else:
            assert one == other, field.name


@pytest.mark.parametrize(
    ("trainer", "setting"),
    [*itertools.product(["native", "opacus"], SETTINGS), ("vectorised", "plain"), ("vectorised", "both units")],
)
def test_a_block_that_does_not_fit_is_halved_and_the_numbers_stay(trainer, setting, federation, tmp_path, monkeypatch):
    text, overrides = SETTINGS[setting]
    built = federation(f"engine.trainer={trainer}", "engine.workers=1", *overrides, text=SMALL + text)
    assert why_not(built, trainer) is None
    stores = [store_of(built, tmp_path / name) for name in "ab"]
    job = replace(job_of(built), memory=np.full(built.sent_memory_size, 0.01, np.float32))
    whole = train_clients(built, job, stores[0])
    error = ERRORS[sorted(ERRORS)[sorted(SETTINGS).index(setting)]]
    tried = short_of_memory(monkeypatch, error)
    monkeypatch.setattr("fedsim.client.blocks", lambda federation, clients: [clients])
    halved = train_clients(built, job, stores[1])
    assert tried == [6, 3, 1, 2, 3, 1, 2]
    assert_same(whole, halved)
    for before, after in zip(*(store.read(np.arange(6)) if store else () for store in stores), strict=True):
        np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-6)


def test_what_clients_keep_changes_only_once_all_is_there(federation, tmp_path, monkeypatch):
    """The last that takes memory are copies of the reports, where the server needs each."""
    settings = ("algorithm.name=scaffold", 'algorithm.aggregation={kind="median"}')
    built = federation("engine.trainer=opacus", "engine.workers=1", *settings)
    stores, rows = [store_of(built, tmp_path / name) for name in "ab"], updates._rows
    job = replace(job_of(built), memory=np.full(built.sent_memory_size, 0.01, np.float32))

    def copied(clients, *arguments):
        if len(clients) > ROOM:
            raise MemoryError
        return rows(clients, *arguments)

    whole = train_clients(built, job, stores[0])
    monkeypatch.setattr("fedsim.updates._rows", copied)
    assert_same(whole, train_clients(built, job, stores[1]))
    np.testing.assert_allclose(*(store.read(np.arange(6)) for store in stores), rtol=1e-4, atol=1e-6)


def test_a_pass_that_fails_half_way_leaves_nothing_behind(federation, monkeypatch):
    """Opacus keeps the activations of a forward pass until its backward pass, of which here there is none."""
    model = 'model={name="cnn", convolutions=[{channels=2}], hidden=[4], dropout=0.2}'
    built = federation("engine.trainer=opacus", model, text=SMALL + EXAMPLE_PRIVACY)
    whole, losses, passes = train_clients(built, job_of(built)), OpacusTrainer._losses, []

    def fail_once(*arguments):
        found = losses(*arguments)
        passes.append(1)
        if len(passes) == 3:
            raise MemoryError
        return found

    monkeypatch.setattr(OpacusTrainer, "_losses", fail_once)
    assert_same(whole, train_clients(built, job_of(built)))
    assert built.trainer.halving.longest == ROOM + 1


def test_what_follows_keeps_to_the_length_that_fitted(federation, monkeypatch, caplog):
    built = federation("engine.workers=1")
    tried = short_of_memory(monkeypatch, ERRORS["torch"])
    with caplog.at_level(logging.WARNING, "fedsim"):
        train_clients(built, job_of(built))
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "Out of memory with 6 clients in a block",
        "Out of memory with 3 clients in a block",
    ]
    assert "goes on with at most 1, and the same numbers" in caplog.records[1].getMessage()
    assert [len(block) for block in blocks(built, np.arange(6))] == [1] * 6
    tried.clear()
    train_clients(built, job_of(built, round_=3))
    assert tried == [1] * 6


def test_a_single_client_that_does_not_fit_is_one_clear_error(federation, monkeypatch):
    built = federation()
    short_of_memory(monkeypatch, ERRORS["cuda"], room=0)
    with pytest.raises(OutOfMemory, match=r"for a single client \(CUDA out of memory\..*Lower engine.workers or"):
        train_clients(built, job_of(built))


def test_attackers_who_collude_are_not_parted(federation, monkeypatch):
    attack = 'attack={kind="inner_product", fraction=0.5}'
    built = federation(attack, 'algorithm.aggregation={kind="median"}')
    hostile = np.flatnonzero(built.holdings.attacks)
    assert len(hostile) > ROOM
    short_of_memory(monkeypatch, MemoryError())
    with pytest.raises(OutOfMemory, match=f"{len(hostile)} attackers, who train together because they collude"):
        train_clients(built, job_of(built, hostile))


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_every_way_to_say_it_is_known(error):
    assert ran_out(error)


def test_other_errors_are_not_taken_for_it(federation, monkeypatch):
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ran_out(ValueError("out of memory"))
    built = federation()
    short_of_memory(monkeypatch, RuntimeError("a device-side assert"))
    with pytest.raises(RuntimeError, match="device-side"):
        train_clients(built, job_of(built))


def test_a_run_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    scenario = fedsim.parse_scenario(SMALL + EXAMPLE_PRIVACY + CLIENT_PRIVACY, "x", ["engine.workers=1"])
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    whole = fedsim.run(scenario, tmp_path / "a")
    short_of_memory(monkeypatch, MemoryError())
    halved = fedsim.run(scenario, tmp_path / "b")
    assert "Out of memory with 6 clients in a block" in caplog.text
    assert "blocks of at most 1 client(s), as memory ran out" in halved.summary["trainer_reason"]
    first, second = (load_file(result.directory / "model.safetensors") for result in (whole, halved))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-5, atol=1e-6)
    assert whole.privacy == halved.privacy


def test_a_run_that_cannot_go_on_says_what_to_lower_and_can_be_resumed(tmp_path, monkeypatch):
    scenario = fedsim.parse_scenario(SMALL, "x")
    monkeypatch.setattr("fedsim.running.build_report", lambda path: path)
    with monkeypatch.context() as patch:
        short_of_memory(patch, MemoryError("Unable to allocate 9 TiB"), room=0)
        with pytest.raises(FedsimError, match=r"Lower engine\.workers") as caught:
            fedsim.run(scenario, tmp_path / "run")
    assert caught.value.exit_code == 1
    assert str(caught.value).count("\n") == 0
    assert fedsim.resume(tmp_path / "run").summary["status"] == "completed"


# A block of all clients holds 8 numbers of 4 bytes for each of 304,000 parameters: 560 MiB.
LIMITED = """
import resource
import numpy as np
import fedsim
from fedsim.client import train_clients
from fedsim.federation import build_federation
from fedsim.messages import TrainJob
from fedsim.native.build import NoNative
from fedsim.training.native import NativeTrainer

settings = ["engine.trainer=opacus", "engine.memory_gib=64", "population.clients=60", "model.name=mlp",
    "model.hidden=[512, 512]", "algorithm.name=fedavg", "algorithm.local.options.momentum=0.9",
    "algorithm.local.steps=2"]
built = build_federation(fedsim.parse_scenario("", "x", settings))

def sum_of(clients):
    job = TrainJob(1, "", built.scenario.digest, np.arange(clients), built.start.numpy(), 0.1, {})
    built.trainer.halving.longest = None
    return train_clients(built, job).total

sum_of(2)  # what is loaded at first use is there
taken = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (1024 * taken + 250 * 2**20, -1))
short, longest = sum_of(60), built.trainer.halving.longest
try:
    native = NativeTrainer(built.module, built.task, workers=500)  # each with memory of its own, some 5 MiB
    native._model(True)
except MemoryError as error:
    print(error)
except NoNative as error:
    print("in the native trainer")  # there is none
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
enough = sum_of(60)
assert built.trainer.halving.longest is None, "the limit was not what made it halve"
print(longest, np.abs(short - enough).max() / np.abs(enough).max())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process' address space")
def test_memory_that_really_ends_gives_the_same_sum():
    alone = os.environ | {"MALLOC_ARENA_MAX": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", LIMITED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    assert "Out of memory with 60 clients in a block (" in done.stderr
    native, figures = done.stdout.splitlines()
    assert native == "in the native trainer"
    longest, apart = figures.split()
    assert 1 < int(longest) < 60
    assert float(apart) < 1e-6


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("fedsim.data.digits.Digits.load", "numpy"),
        ("fedsim.federation.Task.of", "torch"),
        ("fedsim.server.evaluate", "cuda"),
    ],
)
def test_memory_that_ends_anywhere_else_is_one_clear_error(where, error, tmp_path, monkeypatch, capsys):
    def fail(*_, **__):
        raise ERRORS[error]

    (tmp_path / "x.toml").write_text(SMALL)
    monkeypatch.setattr(where, fail)
    monkeypatch.setattr(sys, "argv", ["fedsim", "run", str(tmp_path / "x.toml"), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("Out of memory (")
    assert said.endswith("A run that had begun goes on with: fedsim resume RUN\n")
