"""Whole sweeps: what they leave behind, killed ones, failures, halving against runs made by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import fedsim
from fedsim.cli import main
from fedsim.errors import BadInput, FedsimError
from fedsim.sweeps import worker
from fedsim.sweeps.entry import failure
from fedsim.sweeps.pool import Answer
from fedsim.sweeps.record import SweepDirectory
from fedsim.sweeps.settings import load_sweep
from fedsim.sweeps.trials import Task, Trial
from tests.sweeps.conftest import BASE

# Without privacy, a learning rate of 1e30 diverges: those runs fail.
SEARCH = 'seeds = [0, 5]\nobjective = ["accuracy", "epsilon"]\nparallel = 1'
SPACE = "privacy.example.target_epsilon = [2.0, inf]\nalgorithm.local.learning_rate = [0.2, 1e30]"
ROUNDS = 6


def write(folder: Path, search: str, space: str, rounds: int = ROUNDS) -> Path:
    (folder / "small.toml").write_text(BASE.replace("rounds = 3", f"rounds = {rounds}"))
    file = folder / "s.toml"
    file.write_text(f'base = "small.toml"\n[sweep]\n{search}\n[space]\n{space}\n')
    return file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed sweep."""
    folder = tmp_path_factory.mktemp("whole")
    return fedsim.sweep(write(folder, SEARCH, SPACE), folder / "out")


class Here:
    """A pool without workers: it makes the runs in this process, whose imports are done."""

    def __init__(self, settings):
        pass

    def run(self, jobs, on_round):
        for job in jobs:
            found = worker._answer(job.order, lambda told: None)
            yield Answer(job, found.get("summary"), found.get("failed"))

    def close(self):
        pass


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr("fedsim.sweeps.runner.Pool", Here)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def table(folder: Path) -> str:
    return (folder / "table.json").read_text()


def test_every_setting_runs_with_every_seed_as_it_would_by_itself(whole, tmp_path):
    rows = {(row["trial"], row["seed"]): row for row in whole.rows}
    assert sorted(rows) == [(trial, seed) for trial in range(4) for seed in (0, 5)]
    overrides = ["privacy.example.target_epsilon=2.0", "algorithm.local.learning_rate=0.2", "seed=5"]
    base = whole.directory.parent / "small.toml"
    alone = fedsim.run(fedsim.load_scenario(base, [*overrides, "engine.workers=1"]), tmp_path / "alone")
    row = rows[0, 5]
    assert row["values"] == {"privacy.example.target_epsilon": 2.0, "algorithm.local.learning_rate": 0.2}
    assert (row["status"], row["rounds"], row["main_metric"]) == ("completed", ROUNDS, "accuracy")
    assert row["metrics"] == alone.metrics
    assert row["epsilon"] == {"example": alone.privacy[0]["epsilon"], "client": None}
    assert row["delta"] == {"example": 1e-4, "client": None}
    assert row["noise_multiplier"] == {"example": alone.privacy[0]["noise_multiplier"]}
    assert row["clip_norm"] == {"example": 0.7}
    assert row["cohort"] == 6
    assert {"up": row["bytes_up"], "down": row["bytes_down"]} == alone.summary["bytes"]
    assert (whole.directory / row["run"] / "report.html").exists()


def test_a_run_that_fails_is_a_line_with_its_reason_and_stops_nothing(whole):
    failed = [row for row in whole.rows if row["status"] == "failed"]
    assert {row["values"]["algorithm.local.learning_rate"] for row in failed} == {1e30}
    assert all("diverged" in row["error"] for row in failed)
    assert whole.summary["counts"]["failed"] == len(failed)
    assert whole.summary["counts"]["completed"] == 8 - len(failed)
    assert whole.exit_code == 1


def test_a_setting_without_privacy_has_infinite_epsilon_and_is_the_baseline(whole):
    by_trial = {row["trial"]: row for row in whole.rows if row["status"] == "completed"}
    assert by_trial[2]["epsilon"]["example"] == "inf"
    assert whole.summary["baselines"]["non_private"] == 2
    shares = []
    for seed in (0, 5):
        summary = json.loads((whole.directory / f"runs/t0000-s{seed}/summary.json").read_text())
        shares.append(max(row["records"] for row in summary["per_class"]) / summary["test_records"])
    assert whole.summary["baselines"]["trivial"]["value"] == pytest.approx(sum(shares) / 2)


def test_the_table_is_the_record_sorted_without_timings(whole):
    rows = sorted(lines(whole.directory), key=lambda row: (row["trial"], row["seed"]))
    assert json.loads(table(whole.directory)) == [
        {key: value for key, value in row.items() if key != "seconds"} for row in rows
    ]


def test_a_sweep_killed_three_times_and_interrupted_once_gives_the_same_table(whole, tmp_path):
    file = write(tmp_path, SEARCH, SPACE)
    signals = [str(int(each)) for each in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGKILL)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.sweeps.lives", str(file), str(tmp_path / "out"), "7", *signals],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.split() == ["-9", "130", "-9", "-9", "1"], done  # 1: some runs diverge
    assert table(tmp_path / "out") == table(whole.directory)
    assert len(lines(tmp_path / "out")) == 8


def test_resuming_runs_nothing_twice_and_what_is_missing_once(whole, here, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole.directory, folder)
    kept = (folder / "trials.jsonl").read_text().splitlines(keepends=True)
    kept.sort(key=lambda line: '"failed"' not in line)
    gone = json.loads(kept[-1])
    assert gone["status"] == "completed"
    (folder / "trials.jsonl").write_text("".join(kept[:-1]) + kept[-1][:40])  # torn in the middle of a line
    shutil.rmtree(folder / gone["run"])
    (folder / "table.json").unlink()
    ids = {file: file.read_text() for file in folder.glob("runs/*/environment.json")}
    assert len(ids) == 7
    fedsim.sweep(folder, resume=True)
    assert {file: file.read_text() for file in ids} == ids
    assert (folder / gone["run"] / "environment.json").exists()
    assert table(folder) == table(whole.directory)
    assert [json.loads(line) for line in kept[:-1]] == lines(folder)[:-1]


def test_failed_runs_go_on_where_they_stopped_when_that_is_asked_for(whole, here, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(whole.directory, folder)
    rows = lines(folder)
    stopped = next(row for row in rows if row["status"] == "completed" and row["epsilon"]["example"] != "inf")
    (folder / stopped["run"] / "summary.json").unlink()  # as if the disk had been full when it was to be written
    broken = [failure(task_of(stopped), "disk full") if row is stopped else row for row in rows]
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in broken))
    kept = {file: file.read_text() for file in folder.glob("runs/*/environment.json")}
    assert fedsim.sweep(folder, resume=True).rows != whole.rows
    monkeypatch.setattr(sys, "argv", ["fedsim", "sweep", str(folder), "--resume", "--retry-failed"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1  # those that diverge fail again
    assert {file: file.read_text() for file in kept} == kept  # the same runs, and the same ledgers
    assert table(folder) == table(whole.directory)
    assert "--resume --retry-failed" in capsys.readouterr().err
    with pytest.raises(BadInput, match="only with --resume"):
        fedsim.sweep(write(tmp_path, SEARCH, SPACE), tmp_path / "fresh", retry_failed=True)


def task_of(row: dict) -> Task:
    return Task(Trial(row["trial"], row["values"]), row["seed"])


@pytest.mark.parametrize("search", ["trials = 4\nmethod = 'tpe'", "halving = { first_rounds = 2 }"])
def test_failures_that_decided_what_came_later_are_not_taken_back(tmp_path, search):
    pytest.importorskip("optuna")
    folder = tmp_path / "out"
    (folder / "runs").mkdir(parents=True)
    shutil.copy(write(tmp_path, search, SPACE), folder / "sweep.toml")
    shutil.copy(tmp_path / "small.toml", folder)
    (folder / "trials.jsonl").write_text("")
    with pytest.raises(BadInput, match="begin another sweep"):
        fedsim.sweep(folder, resume=True, retry_failed=True)


def test_a_sweep_whose_own_files_were_changed_does_not_go_on(whole, here, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole.directory, folder, ignore=shutil.ignore_patterns("runs"))
    (folder / "runs").mkdir()
    file = folder / "sweep.toml"
    file.write_text(file.read_text().replace("0.2,", "0.1,\n    0.2,"))  # which gives the others other numbers
    with pytest.raises(BadInput, match=r"its number stands for .*0\.1"):
        fedsim.sweep(folder, resume=True)
    (folder / "trials.jsonl").write_text("{]\n" + (folder / "trials.jsonl").read_text())
    with pytest.raises(BadInput, match=r"trials.jsonl is not valid JSON"):
        fedsim.sweep(folder, resume=True)


def test_a_full_disk_is_told_with_what_to_do_and_the_old_file_stays(tmp_path, monkeypatch):
    directory = SweepDirectory(tmp_path)
    directory.write("table.json", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for write in (lambda: directory.write("table.json", "new"), lambda: directory.append("trials.jsonl", {})):
        with pytest.raises(FedsimError, match=r"No space left on device.*resume"):
            write()
    assert (tmp_path / "table.json").read_text() == "old"
    directory.close()


def test_the_report_of_a_sweep_is_rebuilt_from_its_record(whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    shutil.copytree(whole.directory, folder)
    (folder / "frontier.html").unlink()
    monkeypatch.setattr(sys, "argv", ["fedsim", "report", str(folder)])
    main()
    assert capsys.readouterr().out.strip() == str(folder / "frontier.html")
    assert (folder / "frontier.html").read_bytes() == (whole.directory / "frontier.html").read_bytes()
    (folder / "trials.jsonl").write_text("{]\n")
    for argv in (["report", str(folder)], ["report", str(folder), "--format", "pdf"], ["report", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["fedsim", *argv])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2


def test_a_finished_sweep_is_read_again_without_a_worker(whole, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    again = fedsim.sweep(whole.directory, resume=True)
    assert again.summary == whole.summary
    assert again.rows == whole.rows


def test_a_sweep_that_was_killed_before_it_was_written_begins_again(tmp_path):
    file = write(tmp_path, "halving = { first_rounds = 9 }", "rounds.x = [1]")  # refused, but only when it is prepared
    for name in ("half", "other"):
        (tmp_path / name / "runs").mkdir(parents=True)
    (tmp_path / "half" / "base.toml.part").touch()
    (tmp_path / "other" / "scenario.toml").touch()
    with pytest.raises(BadInput, match="rounds is no table"):
        fedsim.sweep(file, tmp_path / "half", resume=True)
    with pytest.raises(BadInput, match="cannot be read"):
        fedsim.sweep(file, tmp_path / "other", resume=True)
    with pytest.raises(BadInput, match="exists already"):
        fedsim.sweep(file, tmp_path / "half")


def test_another_sweep_in_the_directory_is_refused(whole, tmp_path):
    other = write(tmp_path, SEARCH, SPACE.replace("0.2", "0.3"))
    with pytest.raises(BadInput, match="another sweep"):
        fedsim.sweep(other, whole.directory, resume=True)
    with pytest.raises(BadInput, match="another sweep"):
        fedsim.sweep(write(tmp_path, SEARCH, SPACE), whole.directory, resume=True, overrides=["rounds=9"])
    with pytest.raises(BadInput, match="a sweep that has begun cannot be changed"):
        fedsim.sweep(whole.directory, resume=True, overrides=["rounds=9"])
    with pytest.raises(BadInput, match="exists already"):
        fedsim.sweep(other, whole.directory)
    with pytest.raises(BadInput, match="--resume"):
        fedsim.sweep(whole.directory)


def test_two_processes_do_not_work_on_one_sweep(whole, monkeypatch):
    monkeypatch.setattr("fedsim.sweeps.record.LOCK_SECONDS", 0.2)
    program = (
        "import fcntl, sys\nfile = open(sys.argv[1])\nfcntl.flock(file, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    )
    lock = str(whole.directory / ".lock")
    with subprocess.Popen([sys.executable, "-S", "-c", program, lock], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        with pytest.raises(BadInput, match="Another process works on the sweep"):
            fedsim.sweep(whole.directory, resume=True)
        other.kill()


def test_halving_gives_up_whom_a_comparison_by_hand_gives_up(here, tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", lambda path: None)
    rates = [0.001, 0.2, 0.5, 0.1]
    file = write(tmp_path, "halving = { first_rounds = 1, factor = 2 }", f"algorithm.local.learning_rate = {rates}", 3)
    result = fedsim.sweep(file, tmp_path / "out")

    def by_hand(trial: int, until: int | None) -> dict:
        path = tmp_path / f"hand-{trial}"
        if path.exists():
            return fedsim.resume(path, until=until).summary
        overrides = [f"algorithm.local.learning_rate={rates[trial]}", "seed=0", "engine.workers=1"]
        return fedsim.run(fedsim.load_scenario(tmp_path / "small.toml", overrides), path, until=until).summary

    left, expected = list(range(4)), {}
    for rung, keep in ((1, 2), (2, 1), (None, 1)):
        summaries = {trial: by_hand(trial, rung) for trial in left}
        expected |= {trial: (each["metrics"], each["rounds"]) for trial, each in summaries.items()}
        left = sorted(sorted(left, key=lambda trial: -summaries[trial]["metrics"]["accuracy"])[:keep])
    assert {row["trial"]: (row["metrics"], row["rounds"]) for row in result.rows} == expected
    assert {row["trial"]: row["status"] for row in result.rows} == {
        trial: "completed" if trial in left else "pruned" for trial in range(4)
    }
    assert result.summary["best"] == left


def test_the_command_prints_means_over_seeds_or_json_alone(whole, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fedsim", "sweep", str(whole.directory), "--resume"])
    with pytest.raises(SystemExit) as done:
        main()
    shown = capsys.readouterr()
    assert done.value.code == 1
    mean = whole.summary["settings"][0]["objectives"]["accuracy"]["mean"]
    assert f"accuracy {mean:.4f} ±" in shown.out
    failed = next(row for row in whole.rows if row["status"] == "failed")
    assert f"of 8 runs failed; the first, trial {failed['trial']} (privacy.example.target_epsilon =" in shown.err
    assert "with 2 seeds it means little, use 5" in shown.out
    assert "* no other setting is better in accuracy and epsilon\n" in shown.out
    assert "target_epsilon = inf" in shown.out
    cost = whole.summary["cost_of_looking"]["example"]
    assert f"one run spends at most epsilon {cost['one_run']:.4g}, all together {cost['everything']:.4g}" in shown.out
    monkeypatch.setattr(sys, "argv", ["fedsim", "sweep", str(whole.directory), "--resume", "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out) == whole.summary


@pytest.mark.parametrize("name", ["tradeoff_digits", "tradeoff_client_mnist"])
def test_the_sweeps_of_the_repository_are_valid(name, monkeypatch):
    from fedsim.sweeps.search import PROPOSERS
    from fedsim.sweeps.trials import check_trials

    sweep = load_sweep(Path(__file__).parents[2] / "scenarios" / f"{name}.toml")
    trials = PROPOSERS[sweep.search.method](sweep, [], {})
    check_trials(sweep, trials)
    assert trials[-1].values in ({"privacy.example.target_epsilon": "inf"}, {"privacy.client.target_epsilon": "inf"})


def test_a_paused_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.running.build_report", lambda path: None)
    write(tmp_path, "", "rounds = [1]", 4)
    scenario = fedsim.load_scenario(tmp_path / "small.toml")
    whole = fedsim.run(scenario, tmp_path / "whole")
    paused = fedsim.run(scenario, tmp_path / "paused", until=2)
    assert (paused.summary["status"], paused.summary["rounds"]) == ("interrupted", 2)
    assert paused.summary["status_reason"] == "Paused after round 2."
    again = fedsim.resume(tmp_path / "paused", until=2)
    assert again.summary["rounds"] == 2
    done = fedsim.resume(tmp_path / "paused", until=9)
    assert done.summary["status"] == "completed"
    assert done.metrics == whole.metrics
    assert done.privacy[0]["epsilon"] == whole.privacy[0]["epsilon"]
    files = (tmp_path / "whole" / "model.safetensors", tmp_path / "paused" / "model.safetensors")
    assert files[0].read_bytes() == files[1].read_bytes()
