"""A program that runs a sweep again and again, each time stopped by a signal at random, until it is done.

``python -m tests.sweeps.lives SWEEP OUT SEED SIGNAL...``. It prints how each life ended. fedsim is imported once: each
life, and each worker, is a fork, which keeps the lives short.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any

import fedsim.running
import fedsim.sweeps.running
from fedsim.sweeps import pool, worker
from fedsim.sweeps.runner import Watcher
from fedsim.sweeps.search import grid
from fedsim.sweeps.settings import load_sweep
from fedsim.sweeps.trials import Task, scenario_of


class ForkedWorker:
    """What the pool needs of ``subprocess.Popen``, as a fork of this process."""

    def __init__(self, command: Any, stderr: Any, env: dict[str, str], **_: Any) -> None:
        orders, answers = os.pipe(), os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.environ.update(env)
            os.setsid()
            for source, target in ((orders[0], 0), (answers[1], 1), (stderr.fileno(), 2)):
                os.dup2(source, target)
            for pipe in (*orders, *answers):  # else no end of these would ever be the last
                os.close(pipe)
            sys.stdin = os.fdopen(0)
            worker.main()
        os.close(orders[0])
        os.close(answers[1])
        self.stdin: Any = os.fdopen(orders[1], "w")
        self.stdout: Any = os.fdopen(answers[0])

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


class Stop(Watcher):
    """Sends its own process a signal soon after so many rounds: a stopper outside could be late on a busy machine."""

    def __init__(self, number: int, rounds: int, seconds: float) -> None:
        self._number, self._rounds, self._seconds = number, rounds, seconds

    def on_round(self, task: Task, share: float) -> None:
        self._rounds -= 1
        if self._rounds == 0:
            Timer(self._seconds, os.kill, (os.getpid(), self._number)).start()


def first_scenario(file: str) -> fedsim.Scenario:
    """That of the sweep's first run."""
    sweep = load_sweep(file)
    return scenario_of(sweep, grid(sweep, [], {})[0], sweep.search.seeds[0], 1)


def live(sweep: str, out: Path, stop: Watcher | None = None) -> None:
    """Begin the sweep or go on with it in a fork, and print how that ended."""
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        return
    code = 1
    try:
        pool.subprocess = SimpleNamespace(Popen=ForkedWorker, PIPE=None)
        code = fedsim.sweep(sweep, out, resume=True, watcher=stop).exit_code
    except fedsim.FedsimError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def main() -> None:
    """Stop lives at random moments of their first three rounds; let the last one finish."""
    sweep, out, rng = sys.argv[1], Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    fedsim.run(first_scenario(sweep), out.with_name("warm"))  # what a process does once is done before the forks
    for number in map(int, sys.argv[4:]):
        live(sweep, out, Stop(number, rng.randint(1, 3), rng.uniform(0.0, 0.03)))
    live(sweep, out)


if __name__ == "__main__":
    main()
