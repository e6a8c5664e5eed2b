"""Choices of different tables together: each pair of tables, and each choice, runs or is refused clearly.

What runs keeps what tests/conformance/promises.py says; every pair of choices is in ``scripts/campaign conformance``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest

from fedsim.listing import TABLES
from tests.conformance.axes import ELSEWHERE, Choice, axes, choices
from tests.conformance.promises import PATH, quick, tried

pytestmark = pytest.mark.usefixtures("secure_randomness")
AXES = list(axes())
# Of these pairs of tables every pair of choices: which noise fits which cohorts is where a guarantee is made or lost.
WHOLE = [(key, "cohort.sampling.kind") for key in AXES if key.startswith("privacy.")]


def threes(count: int) -> Iterator[tuple[int, ...]]:
    """Threes of the numbers below ``count``, or twos where no third is left, so that each two meet once."""
    met: set[tuple[int, int]] = set()
    for one, two in itertools.combinations(range(count), 2):
        if (one, two) in met:
            continue
        thirds = (three for three in range(two + 1, count) if not {(one, three), (two, three)} & met)
        found = (one, two, *itertools.islice(thirds, 1))
        met.update(itertools.combinations(found, 2))
        yield found


def spread() -> Iterator[tuple[Choice, ...]]:
    """Choices of two or three tables, so that each two tables meet once, each table's choices in turn."""
    turns = Counter[str]()
    for line in threes(len(AXES)):
        keys = [AXES[number] for number in line]
        yield tuple(axes()[key][turns[key] % len(axes()[key])] for key in keys)
        turns.update(keys)


SPREAD = list(spread())
ALONE = sorted(set(choices()) - {choice for chosen in SPREAD for choice in chosen}, key=str)


@pytest.fixture(autouse=True)
def _no_reports():
    with quick():
        yield


def test_each_two_tables_meet_once():
    met = Counter(frozenset(both) for chosen in SPREAD for both in itertools.combinations([c.axis for c in chosen], 2))
    assert met == Counter(map(frozenset, itertools.combinations(AXES, 2)))


def test_every_table_is_an_axis_or_is_run_elsewhere():
    assert TABLES.keys() == (TABLES.keys() & axes().keys()) | ELSEWHERE.keys()
    assert all([choice.name for choice in axes()[key]] == list(TABLES[key]) for key in TABLES.keys() - ELSEWHERE.keys())


@pytest.mark.parametrize("axis", [axis for axis in AXES if any(chosen[0].axis == axis for chosen in SPREAD)])
def test_choices_of_each_two_tables_run_or_are_refused_with_a_path(axis, tmp_path):
    """Where three are refused together, each two of them."""
    ran, refused = 0, 0
    for number, chosen in enumerate(chosen for chosen in SPREAD if chosen[0].axis == axis):
        if tried(tmp_path / str(number), *chosen) is None:
            ran += 1
            continue
        pairs = itertools.combinations(chosen, 2) if len(chosen) > 2 else ()
        outcomes = [tried(tmp_path / f"{number} {place}", *pair) for place, pair in enumerate(pairs)]
        ran, refused = ran + outcomes.count(None), refused + 1
    assert ran >= refused


@pytest.mark.parametrize("choice", ALONE, ids=str)
def test_what_no_two_tables_have_runs_by_itself(choice, tmp_path):
    assert tried(tmp_path, choice) is None


@pytest.mark.parametrize(("key", "other"), WHOLE)
def test_privacy_and_cohorts_run_or_are_refused_with_a_path(key, other, tmp_path):
    pairs = list(itertools.product(axes()[key], axes()[other]))
    refused = [tried(tmp_path / str(number), *pair) for number, pair in enumerate(pairs)]
    assert refused.count(None) >= len(axes()[key])
    assert all(reason is None or "privacy." in reason or "cohort." in reason for reason in refused)


def test_a_refusal_without_a_path_is_found(tmp_path, monkeypatch):
    assert not PATH.search("the scenario cannot run: its noise is wrong.")
    monkeypatch.setattr("fedsim.loading.check_combinations", lambda scenario: ["two settings are wrong"])
    with pytest.raises(AssertionError, match="no setting is named"):
        tried(tmp_path, choices()[0])
