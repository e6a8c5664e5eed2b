"""The soak campaign's judgement: what grows is seen, what does not is left in peace."""

from __future__ import annotations

import pytest

from tests.campaigns.soak import Gauge, figures, problems, sizes

ROUNDS = 2000


def course(tmp_path, **growth):
    """A made-up course of a run in which some measures grow by so much from the first round to the last."""
    gauge = Gauge(tmp_path)
    normal = {"seconds": 0.01, "processor": 0.01, "resident": 5e8, "workers": 0.0, "open": 9.0, "threads": 2.0}
    for number in range(ROUNDS):
        share = number / ROUNDS
        gauge.rows.append({key: value * (1 + growth.get(key, 0) * share) for key, value in normal.items()})
        if (number + 1) % 10 == 0:
            files = {"rounds.jsonl": 240 * number, "cohorts.bin": 40 * number, "ledger.db": 4000 * number}
            gauge.files[number + 1] = files | {"other": int(50_000 * (1 + growth.get("other", 0) * share))}
    done = {"report_bytes": 200_000, "rounds_done": ROUNDS, "rounds": ROUNDS} | growth.get("done", {})
    return list(problems(figures(gauge, ROUNDS) | done))


def test_a_run_that_does_not_grow_has_no_problem(tmp_path):
    assert course(tmp_path) == []


@pytest.mark.parametrize(
    ("growth", "word"),
    [
        ({"resident": 0.08}, "resident_ratio"),
        ({"processor": 0.5}, "processor time"),
        ({"open": 1.0}, "open: from"),
        ({"threads": 3.0}, "threads: from"),
        ({"other": 0.2}, "keep their size"),
        ({"done": {"report_bytes": 10**7}}, "report.html"),
        ({"done": {"rounds_done": 1999}}, "1999 of 2000"),
    ],
)
def test_what_grows_is_seen(growth, word, tmp_path):
    (found,) = course(tmp_path, **growth)
    assert word in found


def test_files_are_told_apart(tmp_path):
    for name in ("rounds.jsonl", "ledger.db", "ledger.db-wal", "ledger.db-shm", "summary.json"):
        (tmp_path / name).write_bytes(b"x" * 10)
    assert sizes(tmp_path) == {"rounds.jsonl": 10, "cohorts.bin": 0, "ledger.db": 30, "other": 10}
