"""One card per unit of privacy: the verdict, the warnings, the prose and the table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedsim.report import bounds, plain
from fedsim.report.alarms import alarms
from fedsim.report.particulars import Row, particulars
from fedsim.report.statement import UNITS, WORDS, Entry, Section, sections, spent, words


@dataclass(frozen=True)
class Card:
    """What the template prints for one unit."""

    title: str
    figure: str
    verdict: str
    protected: bool
    alarms: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


NOTHING = (
    "ε = ∞: nothing is guaranteed. What was released may reveal any {thing} in full, and no limit can be given for "
    "what an observer can conclude from it."
)


def cards(privacy: Sequence[Entry], rounds: Sequence[Entry] = ()) -> list[Card]:
    """The guarantees of a run, then plainly the units for which there is none."""
    given = {str(entry.get("unit")) for entry in privacy} & set(UNITS)
    stated = [_card(entry, rounds) for entry in privacy if entry.get("unit") in UNITS]
    if not given:
        return [_no_privacy(list(privacy))]
    return stated + [_unprotected(unit, privacy) for unit in UNITS if unit not in given]


def _card(entry: Entry, rounds: Sequence[Entry]) -> Card:
    title, rows = words(entry).title, particulars(entry)
    if math.isinf(spent(entry)):
        nothing: Section = ("What this means", [NOTHING.format(thing=words(entry).thing)])
        return Card(title, "ε = ∞", "no guarantee", False, alarms(entry, rounds), [nothing], rows)
    figure = f"ε = {plain.epsilon(entry['epsilon'])} at δ = {plain.probability(entry.get('delta'))}"
    grade = "" if entry.get("randomness") == "secure" else " · simulation-grade noise"
    verdict = f"{bounds.strength(spent(entry))[0]}, by convention{grade}"
    return Card(title, figure, verdict, True, alarms(entry, rounds), sections(entry), rows)


def _unprotected(unit: str, privacy: Sequence[Entry]) -> Card:
    names = WORDS[unit]
    reasons = [names.meaning, "This run states no guarantee of its own for this unit: ε = ∞."]
    client = next((entry for entry in privacy if entry.get("unit") == "client"), None)
    if unit == "example" and client is not None and math.isfinite(spent(client)):
        twice = "that ε" if client.get("relation") == "replace-one" else "twice that ε, at a larger δ"
        reasons.append(
            f"As a part of what its client holds, a record is covered by the guarantee for the client: {twice}."
        )
    else:
        reasons.append("Nothing is promised about it.")
    return Card(names.title, "ε = ∞", "no guarantee of its own", False, sections=[("What this means", reasons)])


def _no_privacy(privacy: Sequence[Entry]) -> Card:
    meaning: Section = (
        "What this means",
        [
            "This run was made without differential privacy. " + NOTHING.format(thing="record or any client"),
            "That the data stayed with the clients during training does not change this: models and updates can "
            "reveal what they were trained on.",
        ],
    )
    rows = [row for row in particulars(privacy[0]) if privacy[0].get(row.key) is not None] if privacy else []
    flags = [str(flag) for entry in privacy for flag in entry.get("flags") or []]
    return Card("No privacy guarantee", "ε = ∞", "nothing is guaranteed", False, flags, [meaning], rows)
