"""Checkpoints that are not whole or not this run's, and what else a run needs to go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fedsim
import fedsim.interrupts
from fedsim.errors import FedsimError
from fedsim.record import RunDirectory
from tests.conftest import CLIENT_PRIVACY, SMALL
from tests.crash.conftest import Stop
from tests.crash.kinds import assert_same, differences, record, scenario_of

POISSON = 'cohort.sampling={kind="poisson", rate=0.6}'


def edit_checkpoint(file: Path, change: Callable[[dict, dict], None]) -> None:
    """Write a checkpoint anew with other tensors, or something else said of them."""
    with safe_open(file, "pt") as stored:
        about = stored.metadata()
    tensors = load_file(file)
    change(tensors, about)
    save_file(tensors, file, about)


def edit_progress(change: Callable[[dict], None]) -> Callable[[dict, dict], None]:
    def changed(tensors: dict, about: dict) -> None:
        from fedsim.checkpoint_file import _checksum

        progress = json.loads(about["progress"])
        change(progress)
        about["progress"] = json.dumps(progress)
        about["checksum"] = _checksum(tensors, about["progress"])

    return changed


@pytest.mark.parametrize("damage", ["cut", "emptied", "a byte of the model"])
def test_a_damaged_checkpoint_is_passed_over_and_that_is_said(damage, stopped, whole, caplog):
    newest = sorted((stopped / "checkpoint").iterdir())[-1]
    data = newest.read_bytes()
    damaged = {"cut": data[:-20], "emptied": b"", "a byte of the model": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]}
    newest.write_bytes(damaged[damage])
    fedsim.resume(stopped)
    assert "00000003.safetensors in checkpoint/ is not whole, so the run goes on from 00000002" in caplog.text
    assert_same(stopped, whole)


def test_without_a_whole_checkpoint_the_run_begins_again_and_says_so(tmp_path, caplog):
    scenario = fedsim.parse_scenario(SMALL + CLIENT_PRIVACY, "small", (POISSON,))
    whole = fedsim.run(scenario, tmp_path / "whole").directory
    paused = fedsim.run(scenario, tmp_path / "run", until=2).directory
    for file in (paused / "checkpoint").iterdir():
        file.write_bytes(file.read_bytes()[:-20])
    fedsim.resume(paused)
    said = "00000002.safetensors and 00000001.safetensors in checkpoint/ is not whole, so the run begins again"
    assert "no checkpoint is left" in caplog.text
    assert said in caplog.text
    found, expected = record(paused), record(whole)
    rows = found.pop("rounds.jsonl"), expected.pop("rounds.jsonl")
    assert differences(found, expected) == []
    # What is spent already is spent: rounds that are made again say what the ledger holds by then.
    assert [row["epsilon_client"] for row in rows[0]][1:] == [row["epsilon_client"] for row in rows[1]][1:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit_progress(lambda progress: progress.pop("clock")), "another version of fedsim .it differs in clock"),
        (edit_progress(lambda progress: progress.update(new=1)), "another version of fedsim .it differs in new"),
        (lambda tensors, about: about.pop("checksum"), "another version of fedsim .it lacks checksum"),
        (lambda tensors, about: about.update(run="other"), "is a checkpoint of another run"),
        (edit_progress(lambda progress: progress.update(rounds_bytes=10**6)), "but 1000000 were written up to round 3"),
        (edit_progress(lambda progress: progress.update(ledger_position=99)), "holds less than what was charged"),
    ],
)
def test_a_checkpoint_of_another_run_or_version_is_one_error(change, words, stopped):
    newest = sorted((stopped / "checkpoint").iterdir())[-1]
    edit_checkpoint(newest, change)
    with pytest.raises(FedsimError, match=words):
        fedsim.resume(stopped)


@pytest.mark.parametrize(
    ("old", "new"), [("    8,\n", "    9,\n"), ('"sgd"\nlearning_rate = 1.0', '"adam"\nlearning_rate = 1.0')]
)
def test_a_checkpoint_that_does_not_go_with_the_scenario_is_one_error(old, new, stopped):
    file = stopped / "scenario.toml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    shutil.rmtree(stopped / "state")  # which says that it is of another size before
    with pytest.raises(FedsimError, match=r"does not go with its scenario\.toml \(other settings"):
        fedsim.resume(stopped)


def test_a_checkpoint_of_other_tensors_is_one_error(stopped):
    newest = sorted((stopped / "checkpoint").iterdir())[-1]

    def change(tensors: dict, about: dict) -> None:
        tensors["params"] = tensors["params"][:-1].clone()
        edit_progress(lambda progress: None)(tensors, about)

    edit_checkpoint(newest, change)
    with pytest.raises(FedsimError, match=r"does not go with its scenario\.toml \(The size of tensor"):
        fedsim.resume(stopped)


def test_a_run_goes_on_elsewhere_on_another_trainer(stopped):
    file = stopped / "scenario.toml"
    file.write_text(file.read_text().replace('trainer = "auto"', 'trainer = "opacus"'))
    assert fedsim.resume(stopped).summary["trainer"] == "opacus"


def test_a_run_whose_ledger_is_gone_does_not_go_on(stopped):
    (stopped / "ledger.db").rename(stopped / "kept.db")
    with pytest.raises(FedsimError, match="holds less than what was charged up to round 3"):
        fedsim.resume(stopped)


def test_who_is_left_out_is_counted_alike_where_every_round_is_made_twice(tmp_path, monkeypatch):
    """A round that was charged is made again with whom it was charged for, and without the others."""
    scenario = scenario_of("budget")
    whole = fedsim.run(scenario, tmp_path / "whole")
    save, stopped = RunDirectory.save_checkpoint, set()

    def stop_once(directory, tensors, progress):
        if progress.round not in stopped:
            stopped.add(progress.round)
            raise Stop
        save(directory, tensors, progress)

    monkeypatch.setattr(RunDirectory, "save_checkpoint", stop_once)
    with pytest.raises(Stop):
        fedsim.run(scenario, tmp_path / "run")
    for _ in range(whole.summary["rounds"] - 1):
        with pytest.raises(Stop):
            fedsim.resume(tmp_path / "run")
    assert fedsim.resume(tmp_path / "run").exit_code == 3
    assert any("left out" in flag for flag in whole.privacy[0]["flags"])
    assert_same(tmp_path / "run", tmp_path / "whole")
