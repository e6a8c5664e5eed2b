"""A program that lets runs die at every operation on disk, resumes them, and compares them with undisturbed ones.

``python -m tests.crash.forks FOLDER EVERY KIND...``: of each kind every EVERYth moment. fedsim is imported and warmed
up once; each life of a run is a fork, which keeps it short. Each failure is a line that names its case; the exit code
is 1 then.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import traceback
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import torch

import fedsim
import fedsim.client
import fedsim.report.page
import fedsim.running
import fedsim.server
from fedsim.errors import BadInput, FedsimError
from fedsim.privacy import accounting
from tests.crash.kinds import differences, record, scenario_of
from tests.crash.moments import DIED, Moments, What, moments_of

REFUSED, BROKEN = 98, 99
MOST_LIVES = 5


@dataclass
class Releases:
    """Notes each release before anybody can see it: the run, the unit, the round, the clients, and in which life."""

    file: Path
    life: int

    def arm(self) -> None:
        """Watch this process, which is not to be used for anything else."""
        opened, release, train = fedsim.running._open, fedsim.server.release, fedsim.client.train_clients
        run = [""]

        def open_(federation: Any, directory: Any, on_round: Any) -> Any:
            run[0] = directory.path.name
            return opened(federation, directory, on_round)

        def released(session: Any, sums: Any, round_: int) -> Any:
            found, plan = release(session, sums, round_), session.federation.plan
            inside = None if sums.job is None else sums.job.clients.tolist()  # with nobody in it, noise is released
            if session.waiting is not None:
                inside = session.waiting.turn(round_).arrived.tolist()
            if plan.client is not None and plan.trusts_the_server and inside != []:
                self._note(run[0], "client", round_, inside)
            return found

        def trained(federation: Any, job: Any, store: Any = None) -> Any:
            reply, plan = train(federation, job, store), federation.plan
            units = ["example"] if plan.example is not None else []
            units += ["client"] if plan.client is not None and not plan.trusts_the_server else []
            for unit in units:
                self._note(run[0], unit, job.round, job.clients.tolist())
            return reply

        fedsim.running._open, fedsim.server.release, fedsim.client.train_clients = open_, released, trained

    def _note(self, *what: Any) -> None:
        with open(self.file, "a") as file:
            file.write(json.dumps([*what, self.life]) + "\n")

    @staticmethod
    def uncharged(file: Path, run: Path, secure: bool) -> list[str]:
        """What was released but is not in the ledgers on disk; with secure randomness every life pays anew."""
        notes = {tuple(map(json.dumps, json.loads(line))) for line in file.read_text().splitlines()}
        ledgers = {path.parent.name: charged(path) for path in run.rglob("ledger.db")}
        lives: dict[tuple[str, ...], int] = {}
        for name, unit, round_, clients, _ in notes:
            for client in json.loads(clients) or [None]:
                key = (name, unit, round_, json.dumps(client))
                lives[key] = lives.get(key, 0) + 1 if secure else 1
        return [f"{key} {times}x" for key, times in sorted(lives.items()) if held(ledgers, key) < times]


def charged(ledger: Path) -> list[tuple[Any, ...]]:
    """What a ledger holds, read from a copy: opening it would change it."""
    copy = ledger.parent.parent / "copy" / "ledger.db"
    copy.parent.mkdir(exist_ok=True)
    for suffix in ("", "-wal"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
        source = ledger.with_name(ledger.name + suffix)
        if source.exists():
            shutil.copy(source, copy.with_name(copy.name + suffix))
    db = sqlite3.connect(copy)
    tables = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'charges'").fetchone()[0]
    rows = db.execute("SELECT run, unit, round, clients FROM charges").fetchall() if tables else []
    db.close()
    shutil.rmtree(copy.parent)
    return rows


def held(ledgers: dict[str, list[tuple[Any, ...]]], key: tuple[str, ...]) -> int:
    """How many charges of different names a ledger holds for a unit, a round and a client."""
    name, unit, round_, client = json.loads(key[0]), json.loads(key[1]), json.loads(key[2]), json.loads(key[3])
    found = set()
    for run, charged_unit, charged_round, clients in ledgers.get(name, []):
        ids = None if clients is None else memoryview(clients).cast("q").tolist()
        if (charged_unit, charged_round) == (unit, round_) and (ids is None or client in ids):
            found.add(run)
    return len(found)


def live(scenario: fedsim.Scenario, run: Path, moments: Moments, releases: Releases, seen: Path | None = None) -> int:
    """One life of a run in a fork: it begins or goes on; returns how it ended."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = BROKEN
    try:
        releases.arm()
        moments.arm()
        begun = (run / "environment.json").exists()
        code = (fedsim.resume(run) if begun else fedsim.run(scenario, run)).exit_code
        if seen is not None:
            seen.write_text(json.dumps(moments.seen))
    except FedsimError as error:
        releases.file.with_name("said").write_text(str(error))
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class Cases:
    """The lives of runs of one kind, and the undisturbed run that they must end like."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self._numbers = kind, folder, count(1)
        self.scenario = scenario_of(kind)
        self.secure = self.scenario.privacy.randomness == "secure"
        folder.mkdir(parents=True)
        whole, seen = folder / "whole", folder / "seen"
        self.code = live(self.scenario, whole, Moments(), self._releases(), seen)
        if self.code not in (0, 3):
            raise SystemExit(f"{kind}: the undisturbed run ends with {self.code}")
        self.expected, self.seen = record(whole), json.loads(seen.read_text())

    def _releases(self) -> Releases:
        file = self.folder / "releases"
        file.touch()
        return Releases(file, next(self._numbers))

    def killed(self, at: int, what: What, second: int) -> list[str]:
        """Die at a moment, and once more when it goes on; what is wrong."""
        run, problems = self._fresh(), []
        for moments in [Moments(at, what), Moments(second), *(Moments() for _ in range(MOST_LIVES))]:
            problems += self._discard_unbegun(run)
            code = live(self.scenario, run, moments, self._releases())
            problems += [f"not charged: {each}" for each in self._uncharged(run)]
            if code != DIED:
                break
        return problems + self._compared(run, code)

    def failed(self, at: int, what: What) -> list[str]:
        """Let the disk fail from a moment on, mend it, and go on; what is wrong."""
        run = self._fresh()
        code = live(self.scenario, run, Moments(at, what), self._releases())
        problems = [f"not charged: {each}" for each in self._uncharged(run)]
        if code != REFUSED:
            problems.append(f"ended with {code}, not with one error")
        elif what == "full":
            said = (self.folder / "said").read_text()
            problems += [f"said {said!r}"] * ("No space left on device" not in said or "Traceback" in said)
            problems += [f"left {part.name}" for part in run.rglob("*.part")]
            problems += [f"torn {file}" for file in run.rglob("*.jsonl") if not file.read_text().endswith(("\n", ""))]
        problems += self._discard_unbegun(run)
        return problems + self._compared(run, live(self.scenario, run, Moments(), self._releases()))

    def _fresh(self) -> Path:
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        (self.folder / "releases").unlink(missing_ok=True)
        return run

    def _discard_unbegun(self, run: Path) -> list[str]:
        """A run that was stopped before it began cannot go on, and says so."""
        if not run.exists() or (run / "environment.json").exists():
            return []
        empty = not list(run.iterdir())  # just any folder
        try:
            fedsim.resume(run)
        except BadInput as error:
            shutil.rmtree(run)
            return [] if "remove it" in str(error) or empty else [f"said {error}"]
        return ["it went on without having begun"]

    def _uncharged(self, run: Path) -> list[str]:
        return Releases.uncharged(self.folder / "releases", run, self.secure)

    def _compared(self, run: Path, code: int) -> list[str]:
        if code != self.code:
            return [f"ended with {code}, not {self.code}"]
        found = record(run)
        if self.secure:  # what is drawn differs, but nothing is missing
            return [] if found["files"] == self.expected["files"] else ["files"]
        return [f"{name} differs" for name in differences(self.expected, found)]


def main() -> None:
    """Go through the kinds; print what is wrong, and at last how many cases there were."""
    torch.set_num_threads(1)
    # Drawing figures takes longer than these runs; how the report is written stays.
    fedsim.report.page._content = lambda record, format: b"report"
    # The cross-check of an epsilon is a pure function, of which every fork finds what the parent knows.
    accounting.prv_epsilon = cache(accounting.prv_epsilon)
    folder, every = Path(sys.argv[1]), int(sys.argv[2])
    done, wrong = 0, 0
    for kind in sys.argv[3:]:
        fedsim.run(scenario_of(kind), folder / f"warm {kind}")  # what a process does once is done before the forks
        cases = Cases(kind, folder / kind)
        chosen = moments_of(cases.seen)[done % every :: every]
        for at, what in chosen:
            second = (7 * at) % max(len(cases.seen) - at, 1)  # in what is left to do
            tried = {f"killed {at} {what} {second}": cases.killed(at, what, second)}
            if what == "before":
                disk: What = "full" if at % 2 else "read-only"
                tried[f"failed {at} {disk}"] = cases.failed(at, disk)
            for case, problems in tried.items():
                done, wrong = done + 1, wrong + bool(problems)
                if problems:
                    print(f"{kind}: {case}: {'; '.join(problems[:5])}", flush=True)
    print(f"{done} cases, {wrong} failures", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
