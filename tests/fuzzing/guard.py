"""Runs cases in a child process with a limit on memory and on time, and sees what becomes of it.

A case may end well, or be refused as bad input; every other exception, a death of the child, more than ``SECONDS``, and
more than ``GROWTH`` bytes of memory for an input of at most a megabyte are findings.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import fedsim
from fedsim.errors import FedsimError
from fedsim.messages import MalformedMessage
from tests.fuzzing.target import out_of_memory

SECONDS = 60
GROWTH = 512 * 2**20
SOURCES = str(Path(fedsim.__file__).parent)

Run = Callable[[bytes, Path], None]
Lines = set[tuple[str, int]]


@dataclass
class Outcome:
    """What became of a case ("good", "refused", or how it was found), and the lines of fedsim it was first to run."""

    kind: str
    text: str = ""
    fresh: list[tuple[str, int]] = field(default_factory=list)

    @property
    def finding(self) -> bool:
        """Whether this must not happen."""
        return self.kind not in ("good", "refused")


class Watch:
    """Which lines of fedsim run, as far as nobody ran them before."""

    def __init__(self, known: Lines) -> None:
        self.known, self.fresh = known, []
        self._left: dict[CodeType, int] = {}

    def enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Called for every function; follows the lines of those that have lines left."""
        code = frame.f_code
        left = self._left.get(code)
        if left is None:
            left = len(self._unseen(code)) if code.co_filename.startswith(SOURCES) else 0
            self._left[code] = left
        return self._step if left else None

    def _unseen(self, code: CodeType) -> set[int]:
        lines = {line for _, _, line in code.co_lines() if line is not None}
        return {line for line in lines if (code.co_filename, line) not in self.known}

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            if place not in self.known:
                self.known.add(place)
                self.fresh.append(place)
                self._left[frame.f_code] -= 1
        return self._step


def attempt(run: Run, data: bytes, folder: Path) -> Outcome:
    """Run one case in this process; a death or a hang is for the caller to see."""
    _forget_peak()
    before = _peak()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run(data, folder)
        outcome = Outcome("good")
    except (FedsimError, MalformedMessage) as error:
        outcome = _refused(error)
    except SystemExit:
        outcome = Outcome("good")
    except MemoryError as error:
        outcome = Outcome("memory", _last(error))
    except BaseException as error:
        outcome = Outcome("exception", _last(error))
    grown = _peak() - before
    if grown > GROWTH and not outcome.finding:
        outcome = Outcome("memory", f"{grown >> 20} MiB for {len(data)} bytes")
    return outcome


def _refused(error: BaseException) -> Outcome:
    """Bad input; but not where memory ran out first, or a person would be told too much or too little."""
    lack = out_of_memory(error)
    if lack is not None:
        return Outcome("memory", f"refused only after memory ran out: {_last(lack)}")
    text = str(error)
    if not text.strip() or "Traceback" in text or max(map(len, text.splitlines())) > 3000:
        return Outcome("message", f"{len(text)} characters: {text[:200]!r}")
    return Outcome("refused", re.sub(r"[\d'\"].*", "", text.rpartition(": ")[2])[:60])


def _last(error: BaseException) -> str:
    """The exception, and the innermost line of fedsim that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(SOURCES)]
    where = f"{Path(frames[-1].filename).relative_to(SOURCES)}:{frames[-1].lineno}" if frames else "outside fedsim"
    return f"{type(error).__name__} at {where}: {str(error)[:200]}"


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak() -> int:
    with open("/proc/self/status") as file:
        found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
    return 1024 * int(found[1]) if found else 0


def run_batch(run: Run, cases: Sequence[bytes], known: Lines) -> list[Outcome]:
    """Run cases in a child, and what is left in another one where it died; ``known`` grows by the lines that ran."""
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        outcomes += _one_child(run, cases[len(outcomes) :], known)
    for outcome in outcomes:
        known.update(outcome.fresh)
    return outcomes


def _one_child(run: Run, cases: Sequence[bytes], known: Lines) -> list[Outcome]:
    """The outcomes of the cases up to the one that the child died of, if it did."""
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(run, cases, known, (Path(folder), writing))
        os.close(writing)
        with os.fdopen(reading) as pipe:
            outcomes = [
                Outcome(each["kind"], each["text"], [*map(tuple, each["fresh"])]) for each in map(json.loads, pipe)
            ]
        _, status = os.waitpid(child, 0)
    if len(outcomes) < len(cases):
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        hang = died in (signal.SIGALRM, signal.SIGXCPU)
        name = signal.Signals(died).name if died else f"exit code {os.waitstatus_to_exitcode(status)}"
        outcomes.append(Outcome("hang" if hang else "death", name))
    return outcomes


def _child(run: Run, cases: Sequence[bytes], known: Lines, ways: tuple[Path, int]) -> None:
    """Never returns."""
    try:
        _limit()
        folder, writing = ways
        for number, case in enumerate(cases):
            own = folder / str(number)
            own.mkdir()
            watch = Watch(known)
            signal.alarm(SECONDS)
            sys.settrace(watch.enter)
            try:
                outcome = attempt(run, case, own)
            finally:
                sys.settrace(None)
            signal.alarm(0)
            line = json.dumps({"kind": outcome.kind, "text": outcome.text, "fresh": watch.fresh}) + "\n"
            os.write(writing, line.encode())
        os._exit(0)
    finally:
        os._exit(3)


def _limit() -> None:
    """Quiet, killed by the clock even inside C, and with memory for what is there plus four times ``GROWTH``."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**30))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * GROWTH, size + 4 * GROWTH))
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
