"""Fuzzes everything that fedsim reads: ``python -m tests.campaigns.fuzz [SECONDS] [SEED] [TARGET ...]``.

Inputs are made of seeds and of inputs that were the first to reach a line of fedsim, with damage drawn from SEED. Each
is read in a child process with a limit on memory and time. A batch of inputs is a line of ``campaigns/fuzz.jsonl``;
what was first to reach a line lies in ``campaigns/fuzz/corpus``, so that a campaign that was stopped goes on, and
counts the seconds that it had. An input that is a finding is kept in ``campaigns/fuzz/findings``; to see it again:
``python -m tests.campaigns.fuzz replay FILE``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.fuzzing.guard import Lines, Outcome, attempt, run_batch
from tests.fuzzing.target import Target
from tests.fuzzing.targets import TARGETS

FOLDER = Path("campaigns")
KEPT = 400  # inputs of a target's corpus that are drawn from


class Campaign:
    """The record on disk, and what is known of every target."""

    def __init__(self, seed: int, names: list[str]) -> None:
        self.seed, self.names = seed, names
        self.record, self.own = FOLDER / "fuzz.jsonl", FOLDER / "fuzz"
        self.rows = [row for row in self._rows() if row["seed"] == seed]
        self.corpus = {name: [*TARGETS[name].seeds(), *self._kept(name)] for name in names}
        self.known: dict[str, Lines] = {name: set() for name in names}
        self.began = dict.fromkeys(names, False)

    def _rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()] if self.record.exists() else []

    def _kept(self, name: str) -> list[bytes]:
        return [file.read_bytes() for file in sorted((self.own / "corpus" / name).glob("*"))]

    @property
    def seconds(self) -> float:
        """What the campaign with this seed took up to now."""
        return float(sum(row["seconds"] for row in self.rows))

    def next(self) -> str:
        """The target that had the least time; each is begun first."""
        spent = Counter({name: -1.0 * (not self.began[name]) for name in self.names})
        for row in self.rows:
            spent[row["target"]] += row["seconds"] * self.began.get(row["target"], True)
        return min(self.names, key=lambda name: spent[name])

    def batch(self, name: str) -> dict[str, Any]:
        """Run the target's next inputs; the first time its seeds and corpus, so that their lines are known."""
        target, number = TARGETS[name], sum(row["target"] == name for row in self.rows)
        random = Random(f"{self.seed} {name} {number}")
        cases = (
            self.corpus[name][:100]
            if not self.began[name]
            else [self._drawn(target, random, name) for _ in range(target.batch)]
        )
        self.began[name] = True
        start = time.monotonic()
        outcomes = run_batch(target.run, cases, self.known[name])
        findings = self._findings(name, cases, outcomes)
        self._learn(name, cases, outcomes)
        row = {
            "seed": self.seed,
            "target": name,
            "batch": number,
            "cases": len(cases),
            "seconds": time.monotonic() - start,
        }
        kinds = dict(Counter(outcome.kind for outcome in outcomes))
        row |= {"lines": len(self.known[name]), "corpus": len(self.corpus[name]), "kinds": kinds, "findings": findings}
        self.rows.append(row)
        with self.record.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def _drawn(self, target: Target, random: Random, name: str) -> bytes:
        corpus = self.corpus[name]
        return target.damaged(random, corpus[:40] + corpus[-KEPT:])

    def _findings(self, name: str, cases: list[bytes], outcomes: list[Outcome]) -> list[str]:
        """The first input of each kind of finding, kept in a file, and what became of it."""
        seen = {_where(finding) for row in self.rows for finding in row["findings"]}
        found = {}
        for case, outcome in zip(cases, outcomes, strict=True):
            if outcome.finding and (where := f"{name} {outcome.kind}: {outcome.text}"[:80]) not in seen:
                found.setdefault(where, self._keep("findings", name, case) + f" {outcome.kind}: {outcome.text}")
        return list(found.values())

    def _learn(self, name: str, cases: list[bytes], outcomes: list[Outcome]) -> None:
        for case, outcome in zip(cases, outcomes, strict=True):
            if outcome.fresh and len(case) < 2**16 and case not in self.corpus[name]:
                self.corpus[name].append(case)
                self._keep("corpus", name, case)

    def _keep(self, what: str, name: str, case: bytes) -> str:
        file = self.own / what / name / hashlib.sha256(case).hexdigest()[:16]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(case)
        return str(file)


def main(arguments: list[str]) -> int:
    """Run the campaign; 1 where there was a finding."""
    if arguments[:1] == ["replay"]:
        return replay(Path(arguments[1]))
    seconds, seed = (int(each) for each in [*arguments[:2], *("3600", "0")[len(arguments[:2]) :]])
    campaign = Campaign(seed, arguments[2:] or list(TARGETS))
    FOLDER.mkdir(exist_ok=True)
    while campaign.seconds < seconds:
        _show(campaign, campaign.batch(campaign.next()), seconds)
    findings = {_where(finding): finding for row in campaign.rows for finding in row["findings"]}
    for finding in findings.values():
        print(f"FINDING python -m tests.campaigns.fuzz replay {finding}")
    cases = sum(row["cases"] for row in campaign.rows)
    print(f"fuzz: {cases} cases, {len(findings)} kinds of findings, {campaign.seconds:.0f} s")
    return bool(findings)


def _where(finding: str) -> str:
    """What findings of one kind have in common."""
    file, _, what = finding.partition(" ")
    return f"{Path(file).parent.name} {what}"[:80]


def _show(campaign: Campaign, row: dict[str, Any], seconds: int) -> None:
    done = f"{campaign.seconds:.0f}/{seconds} s"
    rate = row["cases"] / max(row["seconds"], 1e-9)
    print(
        f"{done} {row['target']}: batch {row['batch']}, {row['lines']} lines, corpus {row['corpus']}, {rate:.0f}/s",
        row["kinds"],
        flush=True,
    )
    for finding in row["findings"]:
        print(f"  FINDING {finding}", flush=True)


def replay(file: Path) -> int:
    """Read one input again, in this process, with its traceback."""
    with tempfile.TemporaryDirectory() as folder:
        target, data = TARGETS[file.parent.name], file.read_bytes()
        print(attempt(target.run, data, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        target.run(data, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
