"""Worker processes that make a sweep's runs: reused, replaced when they die, and gone when the sweep is."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsim.errors import FedsimError

Json = dict[str, Any]
LOG = "workers.log"
MOST_STILLBORN = 3  # workers in a row that ended before they could begin


@dataclass(frozen=True)
class Job:
    """A run to be made: what names it for its asker, and what the worker is told."""

    key: Any
    order: Json


@dataclass(frozen=True)
class Answer:
    """How a job ended: with a summary, or with an error in one paragraph."""

    job: Job
    summary: Json | None
    error: str | None


class Worker:
    """One process, and the thread that reads what it says."""

    def __init__(self, settings: Workers, said: queue.Queue[tuple[Worker, Json | None]]) -> None:
        self.job: Job | None = None
        self.ready = False  # until its imports are done
        with open(settings.folder / LOG, "ab") as log:
            self._process = subprocess.Popen(
                settings.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=settings.environment(),
                pass_fds=(settings.lock,),
                start_new_session=True,  # Ctrl-C is for the sweep, which ends its workers itself
            )
        self._reader = threading.Thread(target=self._listen, args=(said,), daemon=True)
        self._reader.start()

    def _listen(self, said: queue.Queue[tuple[Worker, Json | None]]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                if line.endswith("\n"):  # else it died while it spoke
                    said.put((self, json.loads(line)))
        said.put((self, None))

    def start(self, job: Job) -> None:
        """Hand it a job; if it is dead already, its reader says so."""
        assert self._process.stdin is not None
        self.job = job
        try:
            self._process.stdin.write(json.dumps(job.order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the reader's last word is that it died

    def end(self) -> str:
        """Make sure that it is gone; how it ended, in words."""
        self._process.kill()
        code = self._process.wait()
        self._reader.join()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                self._process.stdin = None
        return f"signal {-code}" if code < 0 else f"exit code {code}"


@dataclass(frozen=True)
class Workers:
    """How many workers there are, on how many threads each; the folder of their log; a lock that they hold too."""

    count: int
    threads: int
    folder: Path
    lock: int
    command: tuple[str, ...] = (sys.executable, "-m", "fedsim.sweeps.worker")

    def environment(self) -> dict[str, str]:
        """The workers' environment: imports as here, and so many threads each."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        return os.environ | threads | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Pool:
    """Makes jobs, several at once."""

    def __init__(self, settings: Workers) -> None:
        self._settings = settings
        self._workers: list[Worker] = []
        self._stillborn = 0
        self._epitaph = ""
        self._said: queue.Queue[tuple[Worker, Json | None]] = queue.Queue()

    def close(self) -> None:
        """End all workers, whatever they do."""
        while self._workers:
            self._workers.pop().end()

    def run(self, jobs: Iterable[Job], on_round: Callable[[Job, int], None]) -> Iterator[Answer]:
        """The answers, in the order in which they come; a job whose worker died is tried once more, alone."""
        again: list[Job] = []
        for answer in self._pass(deque(jobs), self._settings.count, on_round):
            if answer.summary is None and answer.error is None:
                again.append(answer.job)
            else:
                yield answer
        for job in again:
            for answer in self._pass(deque([job]), 1, on_round):
                yield answer if answer.summary or answer.error else Answer(job, None, self._epitaph)

    def _pass(self, jobs: deque[Job], width: int, on_round: Callable[[Job, int], None]) -> Iterator[Answer]:
        """Make each job once, so many at a time; an answer without a summary and an error: the worker died."""
        while jobs or any(worker.job for worker in self._workers):
            while jobs and sum(worker.job is not None for worker in self._workers) < width:
                self._idle().start(jobs.popleft())
            worker, message = self._said.get()
            if worker in self._workers and (answer := self._heard(worker, message, on_round)):
                yield answer

    def _idle(self) -> Worker:
        for worker in self._workers:
            if worker.job is None:
                return worker
        self._workers.append(Worker(self._settings, self._said))
        return self._workers[-1]

    def _heard(self, worker: Worker, message: Json | None, on_round: Callable[[Job, int], None]) -> Answer | None:
        job = worker.job
        if message is None:
            return self._bury(worker)
        if "ready" in message:
            worker.ready, self._stillborn = True, 0
        elif job is not None and "round" in message:
            on_round(job, message["round"])
        elif job is not None:
            worker.job = None
            return Answer(job, message.get("summary"), message.get("failed"))
        return None

    def _bury(self, worker: Worker) -> Answer | None:
        self._workers.remove(worker)
        how = worker.end()
        self._stillborn += not worker.ready
        if self._stillborn == MOST_STILLBORN:
            log = self._settings.folder / LOG
            raise FedsimError(f"Worker processes end ({how}) before they can begin; what they said is in {log}.")
        self._epitaph = f"The process that made this run died twice ({how} at last), the second time alone; see {LOG}."
        return None if worker.job is None else Answer(worker.job, None, None)
