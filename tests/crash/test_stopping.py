"""Ctrl-C, SIGTERM, another process at work, a run that came to its end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

import fedsim
import fedsim.interrupts
from fedsim.errors import BadInput
from fedsim.interrupts import Interrupted, uninterrupted
from fedsim.record import RunDirectory
from tests.crash.kinds import assert_same, scenario_of


def scenario_file(folder: Path, *overrides: str) -> Path:
    (folder / "scenario.toml").write_text(scenario_of("scaffold", "rounds=4", *overrides).to_toml())
    return folder / "scenario.toml"


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_for_the_end_of_what_belongs_together(number):
    done = []
    with fedsim.interrupts.terminated_like_interrupted():
        before = [signal.getsignal(each) for each in fedsim.interrupts.SIGNALS]
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            with uninterrupted():
                signal.raise_signal(number)
                signal.raise_signal(number)  # an impatient second one
                done.append("written")
            done.append("never")
        assert done == ["written"]
        assert [signal.getsignal(each) for each in fedsim.interrupts.SIGNALS] == before


def test_a_signal_that_is_ignored_is_ignored_all_the_same():
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    ("where", "number", "rounds"),
    [
        ("fedsim.server.step", signal.SIGINT, 2),  # the model has moved: the round is finished first
        ("fedsim.record.RunDirectory.append_round", signal.SIGTERM, 2),
        ("fedsim.server.exchange", signal.SIGTERM, 1),  # nothing is lost but the round's training
    ],
)
def test_a_signal_in_a_round_leaves_whole_rounds_and_the_run_goes_on(where, number, rounds, whole, tmp_path, call):
    calls, (module, name) = [], where.rsplit(".", 1)
    owner = RunDirectory if name == "append_round" else sys.modules[module]
    honest = getattr(owner, name)

    def interrupted(*arguments):
        calls.append(where)
        if len(calls) == 2:
            signal.raise_signal(number)
        return honest(*arguments)

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        code, said = call("run", scenario_file(tmp_path), "--out", run)
    assert (code, said.strip()) == (130, f"Stopped. Go on with: fedsim resume {run}")
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("interrupted", rounds)
    assert len((run / "rounds.jsonl").read_text().splitlines()) == rounds
    assert_same_model_as_after(rounds, run, tmp_path)
    assert call("resume", run)[0] == 0
    assert_same(run, whole)


def assert_same_model_as_after(rounds: int, run: Path, folder: Path) -> None:
    until = fedsim.run(scenario_of("scaffold", "rounds=4"), folder / "until", until=rounds).directory
    assert (run / "model.safetensors").read_bytes() == (until / "model.safetensors").read_bytes()
    shutil.rmtree(until)


@pytest.mark.parametrize("where", ["fedsim.running.summarise", "fedsim.running.build_report", "fedsim.running.host"])
def test_ctrl_c_at_the_end_or_the_beginning_says_how_to_go_on(where, whole, tmp_path, call):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, lambda *_: signal.raise_signal(signal.SIGINT))
        code, said = call("run", scenario_file(tmp_path), "--out", run)
    assert (code, said.strip()) == (130, f"Stopped. Go on with: fedsim resume {run}")
    assert call("resume", run)[0] == 0
    assert_same(run, whole)


def test_ctrl_c_before_anything_is_written_leaves_nothing(tmp_path, call, monkeypatch):
    monkeypatch.setattr("fedsim.record.environment", lambda: signal.raise_signal(signal.SIGINT))
    assert call("run", scenario_file(tmp_path), "--out", tmp_path / "run") == (130, "Stopped.\n")
    assert not (tmp_path / "run").exists()


def test_sigterm_stops_a_sweep_which_says_how_to_go_on(tmp_path, call, monkeypatch):
    monkeypatch.setattr("fedsim.sweeps.running._search", lambda *_: signal.raise_signal(signal.SIGTERM))
    scenario_file(tmp_path)
    (tmp_path / "sweep.toml").write_text('base = "scenario.toml"\n[sweep]\nseeds = [0]\n[space]\nrounds = [1]\n')
    code, said = call("sweep", tmp_path / "sweep.toml", "--out", tmp_path / "sweep")
    assert (code, said.strip()) == (130, f"Stopped. Go on with: fedsim sweep {tmp_path / 'sweep'} --resume")


# One process, and one end


def test_a_second_process_is_refused_until_the_first_is_gone(stopped, whole, call):
    with RunDirectory(stopped).held():
        code, said = call("resume", stopped)
    assert (code, said.strip()) == (2, f"Another process works on the run in {stopped}; wait for it or stop it.")
    assert call("resume", stopped)[0] == 0
    assert_same(stopped, whole)


def test_a_lock_dies_with_its_process(stopped):
    holding, child = os.pipe(), os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitpid(child, 0)
    program = f"""
import os, fcntl, time
fcntl.flock(os.open({str(stopped / ".lock")!r}, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX)
os.write(1, b"x")
time.sleep(60)
"""
    actions = [(os.POSIX_SPAWN_DUP2, holding[1], 1)]
    child = os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ, file_actions=actions)
    assert os.read(holding[0], 1) == b"x"
    with pytest.raises(BadInput, match="Another process works on the run"):
        fedsim.resume(stopped)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in holding:
        os.close(end)
    assert fedsim.resume(stopped).exit_code == 0


def test_a_finished_run_is_left_as_it_is_and_that_is_said(whole, call, caplog):
    def listing() -> dict:
        return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in whole.rglob("*") if file.is_file()}

    before = listing()
    assert call("resume", whole)[0] == 0
    assert "came to its end before (completed); nothing was done." in caplog.text
    assert listing() == before


def test_a_finished_secure_run_pays_nothing_for_being_resumed(tmp_path):
    made = fedsim.run(scenario_of("secure tree"), tmp_path / "run")
    assert fedsim.resume(tmp_path / "run").privacy == made.privacy


def test_ctrl_c_from_python_is_one_error_with_the_way_on(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.summarise", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="fedsim resume"):
        fedsim.run(scenario_of("robust", "rounds=1"), tmp_path / "run")
