"""Numbers in plain words: what is rounded, and which way."""

import math
from typing import Any

import pytest

from fedsim.report import plain


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.9874, "3.99"),
        (3.9801, "3.99"),
        (4.0, "4.00"),
        (0.30000000000000004, "0.30"),
        (0.01234, "0.013"),
        (0.0, "0"),
        ("inf", "∞"),
        (math.inf, "∞"),
        (None, "not recorded"),
        (math.nan, "not recorded"),
    ],
)
def test_epsilon_is_rounded_up(value: Any, text: str) -> None:
    assert plain.epsilon(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "0.00001 (1 in 100,000)"),
        (1 / 1437, "0.000696 (1 in 1,440)"),
        (1e-9, "1e-09 (1 in 1,000,000,000)"),
        (0.5, "0.5"),
        (0, "0"),
        (None, "not recorded"),
    ],
)
def test_small_probabilities_are_written_out(value: Any, text: str) -> None:
    assert plain.small(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "50.0%"), (0.98192, "98.2%"), (0.99985, "99.99%"), (0.999931, "99.994%"), (1 - 1e-12, "practically 100%")],
)
def test_probability_bounds_are_rounded_up_but_told_from_certainty(value: float, text: str) -> None:
    assert plain.percent_up(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "0.00001"),
        (1234, "1,234"),
        ("inf", "∞ (infinite)"),
        (True, "yes"),
        ([], "none"),
        (["One.", "Two."], "One. Two."),
        ({"min": 1, "max": 2.5}, "min 1, max 2.5"),
        (3.987412345678901, "3.987412345678901"),
        (0.2077922077922078, "0.2077922077922078"),
        (0.19099999999999998, "0.191"),
        (0.00019099999999999998, "0.000191"),
        (1e-12, "1e-12"),
    ],
)
def test_the_tables_print_values_whole(value: Any, text: str) -> None:
    assert plain.exact(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.131, "131 ms"), (6.81, "6.81 s"), (312, "5 min 12 s"), (11520, "3 h 12 min"), (None, "not recorded")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert plain.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (12_000_000, "12 MB"), (1.5e9, "1.5 GB"), (None, "not recorded")],
)
def test_sizes(amount: float | None, text: str) -> None:
    assert plain.size(amount) == text


def test_listings() -> None:
    assert [plain.listing(parts) for parts in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"min": 0.2077922077922078, "max": 0.8421052631578947}, "between 0.2078 and 0.8421"),
        ({"min": 288, "max": 12345}, "between 288 and 12,345"),
        (0.0000123456, "0.00001235"),
        (None, "not recorded"),
        (math.inf, "∞ (infinite)"),
    ],
)
def test_four_digits_are_enough_in_a_sentence(value: Any, text: str) -> None:
    assert plain.spread(value) == text
