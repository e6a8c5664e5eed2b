"""A site's own ledger and the answers that it gave: every release is charged once, before it leaves.

An answer is first written to the site's disk, then charged, then sent. A process that is killed in between finds the
answer on its disk and sends the same bytes: no round is ever computed twice, so none is released twice or for nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedsim.deployment.site_settings import SiteSettings
from fedsim.deployment.wire import Order
from fedsim.durable import sync_folder
from fedsim.errors import BadInput, BudgetExhausted, FedsimError
from fedsim.messages import Rows, TrainReply
from fedsim.privacy.events import Event
from fedsim.privacy.ledger import Ledger, Limit
from fedsim.privacy.plan import Charge, PrivacyPlan, Unit

KEPT_ROUNDS = 3  # a server that goes on from its last checkpoint but one asks for no older
KEPT_RUNS = 8
NOTHING = Event(0.0)  # what a release without noise is: its epsilon is infinite


class Refused(FedsimError):
    """The site does not do what it was asked; the text says why."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One answer at a time: a process of before a restart may still be at work."""
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Guard:
    """The ledger and the answers in a site's folder, for one run; ``client`` is the site's number in it."""

    def __init__(self, folder: Path, settings: SiteSettings, plan: PrivacyPlan, order: Order) -> None:
        self._folder, self._plan, self._order = folder, plan, order
        policy, delta = settings.policy, np.array([settings.policy.delta])
        limits: dict[Unit, Limit] = {}
        if plan.example is not None:
            limits["example"] = Limit(policy.max_epsilon_example, delta)
        if plan.client is not None:
            limits["client"] = Limit(policy.max_epsilon_client, delta)
        # All that the site ever released composes, whatever it held at the time: the ledger is the site's.
        self.ledger = Ledger(folder / "ledger.db", f"site {settings.name}", 1, order.run, limits)
        self._answers = folder / "answers" / order.run

    def close(self) -> None:
        """Close the ledger."""
        self.ledger.close()

    def charges(self, round_: int) -> list[Charge]:
        """What the site's answer in a round spends, as charges of the ledger's one client.

        The server's noise is charged without amplification by sampling clients: that would cost something in rounds
        too in which the site was not asked, and of which it knows nothing.
        """
        here, client = np.zeros(1, np.int64), np.array([self._order.client])
        example, whole = self._plan.example, self._plan.client
        own = [Charge("example", each.event, each.count, here) for each in example.charges(client)] if example else []
        if whole is not None:
            own.append(Charge("client", replace(whole.event, rate=1.0, sampling="none"), 1, here))
        return own or [Charge("example", NOTHING, 1, here)]

    def foresee(self, rounds: int) -> str | None:
        """Why the budget is not enough for so many rounds, or None."""
        for charge in self.charges(1):
            whole = Charge(charge.unit, charge.event, charge.count * rounds, charge.clients)
            if not self.ledger.affordable(whole).all():
                limit = self.ledger.limits[charge.unit]
                return (
                    f"{rounds} round(s) would exceed policy.max_epsilon_{charge.unit} = {limit.epsilon:g} at delta "
                    f"{limit.deltas[0]:g}, counting what the site's ledger holds already"
                )
        return None

    def earlier(self, job: str) -> TrainReply | None:
        """The answer that this job was given before, charged by now; raises ``Refused`` for a round that is over."""
        round_, file = self._order.round, self._file(self._order.round)
        if file.exists():
            stored, reply = _read(file)
            if stored != job:
                raise Refused(f"round {round_} of this run was answered for another job, and is answered only once")
            self._charge()
            return reply
        newest = max(self._rounds(), default=0)
        if self.ledger.charged(round_) or newest >= round_:
            raise Refused(f"round {round_} of this run is over; the site has answered up to round {newest}")
        return None

    def keep(self, job: str, reply: TrainReply) -> None:
        """Write the answer to disk, then charge for it; raises ``BudgetExhausted`` with nothing kept."""
        self._answers.mkdir(parents=True, exist_ok=True)
        file = self._file(self._order.round)
        _write(file, job, reply)
        try:
            self._charge()
        except BudgetExhausted:
            file.unlink()
            raise
        for number in sorted(self._rounds())[:-KEPT_ROUNDS]:
            self._file(number).unlink()
        self._forget_runs()

    def _charge(self) -> None:
        self.ledger.charge(self._order.round, self.charges(self._order.round))

    def _file(self, round_: int) -> Path:
        return self._answers / f"{round_:08d}.npz"

    def _rounds(self) -> list[int]:
        return [int(file.stem) for file in self._answers.glob("*.npz")]

    def _forget_runs(self) -> None:
        """Only the answers of the latest runs are kept; what older ones asked stays in the ledger.

        The run that is going on is the latest, also where the clock was set back and others' files are of tomorrow.
        """
        own = self._answers.name
        for parent in (self._folder / "answers", self._folder / "state"):
            folders = sorted(
                (path for path in parent.glob("*") if path.is_dir()),
                key=lambda path: (path.name == own, path.stat().st_mtime),
            )
            for old in folders[:-KEPT_RUNS]:
                shutil.rmtree(old)


def _write(file: Path, job: str, reply: TrainReply) -> None:
    """Write an answer whole and durably, or not at all."""
    rows = reply.rows
    arrays: dict[str, Any] = {"total": reply.total}
    if rows is not None:
        arrays |= {"clients": rows.clients, "weights": rows.weights, "reports": rows.reports}
    events = [[asdict(event), count] for event, count in sorted(reply.events.items())]
    numbers = {key: getattr(reply, key) for key in ("weight", "clients", "invalid", "example_count", "client_count")}
    head = json.dumps({"job": job, "events": events, "numbers": numbers})
    part = file.with_suffix(".part")
    with open(part, "wb") as out:
        np.savez(out, allow_pickle=False, head=np.frombuffer(head.encode(), np.uint8), **arrays)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)
    sync_folder(file.parent)


def _read(file: Path) -> tuple[str, TrainReply]:
    try:
        with np.load(file, allow_pickle=False) as found:
            head = json.loads(found["head"].tobytes())
            rows = Rows(found["clients"], found["weights"], found["reports"]) if "reports" in found else None
            events = Counter({Event(**event): count for event, count in head["events"]})
            return head["job"], TrainReply(total=found["total"], events=events, rows=rows, **head["numbers"])
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"The site's answer {file} cannot be read: {error}.") from error
