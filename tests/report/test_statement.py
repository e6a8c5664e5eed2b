"""The privacy statement: its bounds are exact, no field is lost, and nothing unsound passes without a warning."""

import math
from typing import Any

import numpy as np
import pytest

from fedsim.report import bounds, plain, statement
from fedsim.report.alarms import REQUIRED, alarms
from fedsim.report.cards import cards
from fedsim.report.particulars import FIELDS, particulars

from .example_runs import CLIENT, EXAMPLE


def prose(entry: dict[str, Any]) -> str:
    return " ".join(sentence for _, sentences in statement.sections(entry) for sentence in sentences)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 4.0, 8.0])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 0.1])
def test_the_guess_bound_is_attained_by_the_leaky_randomised_response(epsilon: float, delta: float) -> None:
    """Reveal the answer with probability delta, else lie with probability 1 / (1 + e^epsilon): the worst mechanism."""
    attained = delta + (1 - delta) * math.exp(epsilon) / (1 + math.exp(epsilon))
    assert bounds.guess_bound(epsilon, delta) == pytest.approx(attained, rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("delta", [0.0, 1e-3, 0.1])
def test_the_bounds_agree_with_the_trade_off_curve(epsilon: float, delta: float) -> None:
    false_alarm = np.linspace(0, 1, 100_001)
    missed = np.maximum.reduce(  # Kairouz et al. 2015, the region of tests allowed by (epsilon, delta)
        [
            np.zeros_like(false_alarm),
            1 - delta - np.exp(epsilon) * false_alarm,
            np.exp(-epsilon) * (1 - delta - false_alarm),
        ]
    )
    best_guess = ((1 - false_alarm) + (1 - missed)).max() / 2
    assert bounds.guess_bound(epsilon, delta) == pytest.approx(best_guess, abs=1e-4)
    assert bounds.probability_bound(0.01, epsilon, delta) == pytest.approx(1 - missed[1000], abs=1e-12)


def test_the_bounds_do_not_overflow() -> None:
    assert bounds.guess_bound(5000.0, 1e-5) == 1.0
    assert bounds.probability_bound(0.01, 5000.0, 1e-5) == 1.0


@pytest.mark.parametrize(
    ("epsilon", "word"),
    [(0.0, "strong"), (1.0, "strong"), (4.0, "moderate"), (10.0, "limited"), (11.0, "weak"), (1e9, "practically none")],
)
def test_strength_is_called_a_convention(epsilon: float, word: str) -> None:
    verdict, sentence = bounds.strength(epsilon)
    assert verdict == word
    assert "not by a theorem" in sentence


@pytest.mark.parametrize("entry", [EXAMPLE, CLIENT], ids=["example", "client"])
def test_every_field_is_in_the_table_whole(entry: dict[str, Any]) -> None:
    rows = {row.key: row.value for row in particulars(entry)}
    recorded = {key: value for key, value in entry.items() if value is not None}
    assert {key: rows[key] for key in recorded} == {key: plain.exact(value) for key, value in recorded.items()}
    assert set(rows) == set(FIELDS)


def test_a_field_that_the_report_does_not_know_is_printed_too() -> None:
    assert any(row.key == "novelty" and row.value == "17" for row in particulars(EXAMPLE | {"novelty": 17}))


@pytest.mark.parametrize("entry", [EXAMPLE, CLIENT], ids=["example", "client"])
def test_the_prose_names_what_the_guarantee_depends_on(entry: dict[str, Any]) -> None:
    keys = ("adversary", "steps", "clip_norm", "rate", "relation")
    shown = [plain.spread(entry[key]) for key in keys] + [f"{entry['noise_multiplier']:.4g}"]
    shown += [plain.epsilon(entry["epsilon"]), plain.small(entry["delta"]), "PLD", plain.epsilon(entry["rdp"])]
    text = prose(entry)
    assert [part for part in [*shown, *entry["assumptions"]] if part not in text] == []


def test_the_units_are_explained() -> None:
    assert "one record of one person" in prose(EXAMPLE)
    assert "everything one client holds" in prose(CLIENT)


@pytest.mark.parametrize(
    ("relation", "question"),
    [
        ("add-remove", "whether one particular record was in the data"),
        ("replace-one", "which of two particular records was in the data"),
        ("zero-out", "whether one particular record contributed its data or nothing"),
    ],
)
def test_the_worked_example_asks_what_the_relation_answers(relation: str, question: str) -> None:
    assert question in prose(EXAMPLE | {"relation": relation})


def test_the_worked_example_of_epsilon_ln_3() -> None:
    text = prose(EXAMPLE | {"epsilon": math.log(3), "delta": 0.0})
    assert "at most 75.0% (odds of about 3 to 1)" in text
    assert "at most 3.0% in the other" in text


def test_noise_at_the_server_does_not_protect_against_the_server() -> None:
    assert "does not hold against the server itself" in prose(CLIENT)
    assert "does not hold against the server itself" not in prose(EXAMPLE)


def test_seeded_noise_is_called_simulation_grade() -> None:
    assert "simulation-grade" in prose(EXAMPLE)
    assert "would have to be “secure”" in prose(EXAMPLE)
    assert "simulation-grade" not in prose(CLIENT)
    assert "would have to be “secure”" in prose(EXAMPLE | {"randomness": None})


def test_sound_entries_raise_no_alarm_but_their_own() -> None:
    assert alarms(EXAMPLE) == []
    assert alarms(CLIENT) == CLIENT["flags"]


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"epsilon": 51.0, "target_epsilon": None}, "above 50"),
        ({"delta_times_n": 1.0}, "δ × n is 1 or more"),
        ({"noise_multiplier": 0}, "no noise was added"),
        ({"delta": 1.0}, "the guarantee is empty"),
        ({"budget": 3.9}, "than the budget"),
        ({"target_epsilon": 3.9}, "than the target"),
        ({"clients": {"max": 4.1, "median": 2.0, "min": 1.0}}, "a single client holds a larger"),
        *(({key: None}, f"leaves out {key}") for key in REQUIRED if key not in ("unit", "epsilon")),
    ],
)
def test_what_is_unsound_is_flagged(change: dict[str, Any], warning: str) -> None:
    found = alarms(EXAMPLE | change)
    assert len(found) == 1
    assert warning in found[0]


def test_a_round_that_spent_more_than_the_statement_is_flagged() -> None:
    assert alarms(EXAMPLE, [{"epsilon_example": 3.0}, {"epsilon_example": 3.9874}]) == []
    assert "of a round holds a larger" in alarms(EXAMPLE, [{"epsilon_example": 5.0}, {"epsilon_example": 3.0}])[0]
    assert "of a round holds a larger" in alarms(EXAMPLE, [{"epsilon_example": "inf"}])[0]


@pytest.mark.parametrize("privacy", [[], [{"unit": "none", "epsilon": "inf"}]])
def test_without_privacy_nothing_is_guaranteed(privacy: list[dict[str, Any]]) -> None:
    (card,) = cards(privacy)
    assert not card.protected
    assert "ε = ∞: nothing is guaranteed" in " ".join(card.sections[0][1])


@pytest.mark.parametrize("epsilon", ["inf", None, math.nan])
def test_a_unit_with_infinite_or_unknown_epsilon_gets_no_worked_example(epsilon: Any) -> None:
    card = cards([EXAMPLE | {"epsilon": epsilon}])[0]
    assert not card.protected
    assert [name for name, _ in card.sections] == ["What this means"]
    assert card.figure == "ε = ∞"


def test_an_unprotected_unit_gets_a_card_that_says_so() -> None:
    by_title = {card.title: card for card in cards([EXAMPLE])}
    assert not by_title["Everything one client holds"].protected
    record = next(card for card in cards([CLIENT]) if card.title == "One single record")
    assert not record.protected
    assert "twice that ε" in record.sections[0][1][-1]
