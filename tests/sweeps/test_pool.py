"""The pool of workers, with workers that do what they are told without fedsim: echo, fail, die, count each other."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from fedsim.errors import FedsimError
from fedsim.sweeps.pool import Job, Pool, Workers

# "die": how many of the first tries end by SIGKILL; every try leaves a file that says when it began and ended.
STUB = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    job = json.loads(line)
    tries = sum(name.startswith(job["name"] + ".") for name in os.listdir(job["folder"]))
    log = os.path.join(job["folder"], f"{job['name']}.{tries}")
    open(log, "w").write(f"{time.monotonic()} {os.getpid()}")
    print(json.dumps({"round": 1}), flush=True)
    time.sleep(job.get("sleep", 0))
    if tries < job.get("die", 0):
        os.kill(os.getpid(), 9)
    open(log, "a").write(f" {time.monotonic()}")
    answer = {"failed": "no luck"} if job.get("fail") else {"summary": {"name": job["name"]}}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def pool_of(tmp_path):
    """``pool_of(2)`` is a pool of two stub workers; it is closed after the test, and its workers are gone."""
    pools = []

    def make(count: int, program: str = STUB) -> Pool:
        lock = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
        pools.append((Pool(Workers(count, 1, tmp_path, lock, (sys.executable, "-S", "-c", program))), lock))
        return pools[-1][0]

    yield make
    for pool, lock in pools:
        pool.close()
        os.close(lock)


def jobs_of(folder: Path, *orders: dict) -> list[Job]:
    folder.mkdir(exist_ok=True)
    return [Job(order["name"], {"folder": str(folder)} | order) for order in orders]


def spans(folder: Path) -> dict[str, tuple[float, float]]:
    """From when to when each try that ended by itself was worked on."""
    parts = {file.name: file.read_text().split() for file in folder.iterdir()}
    return {name: (float(each[0]), float(each[2])) for name, each in parts.items() if len(each) == 3}


def test_every_job_is_answered_by_few_workers_that_are_reused(pool_of, tmp_path):
    heard = []
    jobs = jobs_of(tmp_path / "log", *({"name": f"j{n}", "fail": n == 3} for n in range(8)))
    answers = {answer.job.key: answer for answer in pool_of(2).run(jobs, lambda job, round_: heard.append(job.key))}
    assert {key for key, answer in answers.items() if answer.summary == {"name": key}} == set(answers) - {"j3"}
    assert answers["j3"].error == "no luck"
    assert sorted(heard) == sorted(answers)
    assert len({file.read_text().split()[1] for file in (tmp_path / "log").iterdir()}) <= 2


def test_a_job_whose_worker_died_is_tried_once_more_alone(pool_of, tmp_path):
    names = [{"name": "a", "die": 1}, *({"name": f"s{n}", "sleep": 0.1} for n in range(4))]
    answers = list(pool_of(2).run(jobs_of(tmp_path / "log", *names), lambda job, round_: None))
    assert {answer.job.key: answer.error for answer in answers} == dict.fromkeys(["a", "s0", "s1", "s2", "s3"])
    found = spans(tmp_path / "log")
    assert found["a.1"][0] >= max(end for name, (_, end) in found.items() if name != "a.1")


def test_a_job_that_kills_its_worker_twice_fails_and_nothing_else_does(pool_of, tmp_path):
    jobs = jobs_of(tmp_path / "log", {"name": "a"}, {"name": "b", "die": 9}, {"name": "c"}, {"name": "d", "die": 9})
    answers = {answer.job.key: answer for answer in pool_of(2).run(jobs, lambda job, round_: None)}
    assert [key for key, answer in sorted(answers.items()) if answer.summary] == ["a", "c"]
    assert "died twice (signal 9" in answers["b"].error
    assert "died twice (signal 9" in answers["d"].error
    assert sum(file.name.startswith("b.") for file in (tmp_path / "log").iterdir()) == 2


def test_workers_that_never_begin_stop_the_sweep(pool_of, tmp_path):
    pool = pool_of(1, "import sys; sys.exit('no module named luck')")
    with pytest.raises(FedsimError, match=r"before they can begin.*workers\.log"):
        list(pool.run(jobs_of(tmp_path / "log", *({"name": f"j{n}"} for n in range(9))), lambda job, round_: None))
    assert "no module named luck" in (tmp_path / "workers.log").read_text()


def test_closing_ends_workers_in_the_middle_of_a_job(pool_of, tmp_path):
    pool = pool_of(1)
    answers = pool.run(jobs_of(tmp_path / "log", {"name": "a"}, {"name": "b", "sleep": 60}), lambda job, round_: None)
    next(answers)
    began = time.monotonic()
    pool.close()
    assert time.monotonic() - began < 30
    pids = {int(file.read_text().split()[1]) for file in (tmp_path / "log").iterdir()}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
