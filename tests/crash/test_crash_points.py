"""A spread over the moments at which a run may die or its disk may fail; all of them: scripts/campaign kill points."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.crash.moments import moments_of

EVERY, KINDS = 41, ("adaptive", "scaffold", "async", "secure tree", "folds")


def test_wherever_a_run_dies_it_ends_as_if_undisturbed_and_its_ledger_holds_what_was_released(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash.forks", str(tmp_path), str(EVERY), *KINDS],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    count, *rest = done.stdout.split("\n")[-2].split()
    assert rest == ["cases,", "0", "failures"], done
    assert int(count) > 2 * len(KINDS)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("seen", "moments"),
    [
        ([], []),
        (["fsync", "pwrite"], [(0, "before"), (1, "before"), (1, "half")]),
    ],
)
def test_a_run_may_die_before_each_operation_and_in_the_middle_of_a_write(seen, moments):
    assert moments_of(seen) == moments
