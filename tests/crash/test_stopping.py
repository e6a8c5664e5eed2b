"""Ctrl-C, SIGTERM, another process at work, a checkpoint that is not whole or not this run's."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import fedsim
import fedsim.interrupts
from fedsim import cli
from fedsim.errors import BadInput, FedsimError
from fedsim.interrupts import Interrupted, uninterrupted
from fedsim.privacy import accounting
from fedsim.record import RunDirectory
from tests.conftest import CLIENT_PRIVACY, SMALL
from tests.crash.kinds import differences, record, scenario_of

POISSON = 'cohort.sampling={kind="poisson", rate=0.6}'


PRV_EPSILON = cache(accounting.prv_epsilon)


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def _reports_of_one_word(monkeypatch):
    """Drawing figures takes longer than these runs, and so does cross-checking an epsilon again and again."""
    monkeypatch.setattr("fedsim.report.page._content", lambda record, format: b"report")
    monkeypatch.setattr("fedsim.privacy.accounting.prv_epsilon", PRV_EPSILON)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nobody stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.report.page._content", lambda record, format: b"report")
        return fedsim.run(scenario_of("scaffold", "rounds=4"), tmp_path_factory.mktemp("whole") / "run").directory


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped after its third round."""

    def stop(row):
        if row["round"] == 3:
            raise Stop

    with pytest.raises(Stop):
        fedsim.run(scenario_of("scaffold", "rounds=4"), tmp_path / "run", stop)
    return tmp_path / "run"


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """``call("resume", "run")`` is ``fedsim resume run`` in this process: its exit code, and what it says of errors."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fedsim", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return int(ended.value.code or 0), said

    return run


def scenario_file(folder: Path, *overrides: str) -> Path:
    (folder / "scenario.toml").write_text(scenario_of("scaffold", "rounds=4", *overrides).to_toml())
    return folder / "scenario.toml"


def assert_same(run: Path, whole: Path) -> None:
    found, expected = record(run), record(whole)
    assert differences(found, expected) == []


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


# Checkpoints


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


def test_ctrl_c_from_python_is_one_error_with_the_way_on(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.summarise", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted, match="fedsim resume"):
        fedsim.run(scenario_of("robust", "rounds=1"), tmp_path / "run")


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
