"""The privacy statement in plain words: pure functions from a run's privacy entries to sentences."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedsim.report import bounds, plain

Entry = Mapping[str, Any]
Section = tuple[str, list[str]]
UNITS = ("example", "client")


@dataclass(frozen=True)
class Words:
    """How the prose names one unit of privacy."""

    title: str
    meaning: str
    thing: str
    things: str


WORDS = {
    "example": Words(
        title="One single record",
        meaning="The protected unit is one record of one person: a single row, image or text that one client holds.",
        thing="record",
        things="records",
    ),
    "client": Words(
        title="Everything one client holds",
        meaning="The protected unit is everything one client holds: all of its records together, "
        "such as all the data of one person’s device or of one hospital.",
        thing="client",
        things="clients",
    ),
}

RELATIONS = {
    "add-remove": "Two data sets are compared that differ in one {thing} being present or absent",
    "replace-one": "Two data sets of the same size are compared that differ in one {thing} being exchanged for another",
    "zero-out": "Two runs are compared that differ in one {thing} contributing its data or contributing nothing",
}

QUESTIONS = {
    "add-remove": "whether one particular {thing} was in the data",
    "replace-one": "which of two particular {things} was in the data",
    "zero-out": "whether one particular {thing} contributed its data or nothing",
}

SAMPLING = {
    "poisson": "In each step every {thing} was drawn, or not, independently at random (Poisson sampling)",
    "fixed": "In each step a fixed number of {things} was drawn at random",
    "none": "No benefit from drawing {things} at random is counted: each is taken to contribute to every step that "
    "it is charged for",
}


def words(entry: Entry) -> Words:
    return WORDS["client" if entry.get("unit") == "client" else "example"]


def spent(entry: Entry) -> float:
    """The epsilon of an entry; infinity where none is stated, because then nothing is guaranteed."""
    value = plain.number(entry.get("epsilon"))
    return math.inf if value is None or math.isnan(value) or entry.get("unit") not in UNITS else value


def slack(entry: Entry) -> float:
    return plain.finite(entry.get("delta")) or 0.0


def what_is_protected(entry: Entry) -> list[str]:
    names = words(entry)
    relation = RELATIONS.get(str(entry.get("relation")))
    if relation is None:
        return [names.meaning]
    return [names.meaning, f"{relation.format(thing=names.thing)} (the “{entry['relation']}” relation)."]


def what_epsilon_means(entry: Entry) -> list[str]:
    names, epsilon, delta = words(entry), spent(entry), slack(entry)
    question = QUESTIONS.get(str(entry.get("relation")), QUESTIONS["add-remove"])
    guess = bounds.guess_bound(epsilon, delta)
    odds = f" (odds of about {plain.rounded(guess / (1 - guess))} to 1)" if guess <= 1 - 1e-8 else ""
    changed = plain.percent_up(bounds.probability_bound(0.01, epsilon, delta))
    return [
        f"ε = {plain.epsilon(epsilon)} limits how much any conclusion can depend on one {names.thing}. "
        f"Example: someone is undecided, 50:50, {question.format(thing=names.thing, things=names.things)}, and may "
        f"know all other data. After seeing what this guarantee covers, their best guess is right with a "
        f"probability of at most {plain.percent_up(guess)}{odds}; pure guessing gives 50%.",
        f"Put differently, a conclusion that would be drawn with a probability of 1% in the one case is drawn with "
        f"at most {changed} in the other.",
        _what_delta_means(entry, names),
    ]


def _what_delta_means(entry: Entry, names: Words) -> str:
    delta = plain.small(entry.get("delta"))
    text = f"δ = {delta} is the slack in that promise: the probability mass to which the limit by ε does not apply."
    expected, total = plain.finite(entry.get("delta_times_n")), entry.get("n")
    if expected is None or total is None:
        return text
    return (
        f"{text} With {plain.count(total)} {names.things}, at most {plain.quantity(expected)} of them "
        f"(δ × n) would be expected to be exposed entirely, in the worst case."
    )


def how_strong(entry: Entry) -> list[str]:
    sentences = [bounds.strength(spent(entry))[1]]
    clients = entry.get("clients") or {}
    if entry.get("unit") == "example" and clients:
        sentences.append(
            f"The stated ε is that of the most exposed client, the largest over all clients; the median is "
            f"{plain.epsilon(clients.get('median'))} and the smallest {plain.epsilon(clients.get('min'))}."
        )
    if entry.get("relation") == "replace-one":
        sentences.append("Exchanging counts about double: under add-remove the same run would have a smaller ε.")
    for key, name in (("target_epsilon", "target set beforehand"), ("budget", "budget")):
        if plain.finite(entry.get(key)) is not None:
            sentences.append(f"The {name} was ε = {plain.epsilon(entry[key])}.")
    return sentences


def against_whom(entry: Entry) -> list[str]:
    adversary = str(entry.get("adversary") or "").strip()
    stated = f"It holds against: {adversary}" if adversary else "The record does not say against whom it holds."
    return [stated if stated.endswith(".") else f"{stated}.", _not_against(str(entry.get("placement")))]


def _not_against(placement: str) -> str:
    if placement == "server":
        return (
            "It does not hold against the server itself, or anyone who controls it: the noise is added there, "
            "so the server handles the updates before they are protected."
        )
    if placement == "client":
        return (
            "It does not hold against someone who can read the client’s own device: that is where the data lie. "
            "The noise is added before anything leaves the client."
        )
    return "It does not hold against anyone who sees the updates before the noise is complete."


def assumptions(entry: Entry) -> list[str]:
    names = words(entry)
    stated = [str(sentence) for sentence in entry.get("assumptions") or []]
    usual = ["The random noise stays secret, and the software that ran is the software that the scenario describes."]
    if entry.get("sampling") in ("poisson", "fixed"):
        usual.append(
            f"Which {names.things} were drawn in which step stays secret: the figure counts on that random choice, "
            f"and is too small against someone who knows it."
        )
    return stated + usual


def how_it_was_reached(entry: Entry) -> list[str]:
    names = words(entry)
    sampling = SAMPLING.get(str(entry.get("sampling")), "How {things} were drawn is not recorded")
    drawn = sampling.format(thing=names.thing, things=names.things)
    clip_norm, noise = plain.spread(entry.get("clip_norm")), plain.spread(entry.get("noise_multiplier"))
    rate, steps = plain.spread(entry.get("rate")), plain.spread(entry.get("steps"))
    kind = str(entry.get("mechanism") or "random").capitalize()
    return [
        f"The influence of one {names.thing} on a step was cut to a length of at most {clip_norm} (clipping), and "
        f"{kind} noise was added whose standard deviation is {noise} times that length (the noise multiplier).",
        f"{drawn}. The sampling rate is {rate}, the number of steps {steps}.",
        _accounting(entry),
    ]


def _accounting(entry: Entry) -> str:
    checks = [
        f"{name} gives ε = {plain.epsilon(entry[key])}"
        for key, name in (("rdp", "Rényi accounting (RDP)"), ("prv", "Opacus’ PRV accounting"))
        if entry.get(key) is not None
    ]
    checked = f" As a cross-check, {plain.listing(checks)}." if checks else ""
    accountant = str(entry.get("accountant") or "unnamed").upper()
    return f"ε was added up over the whole run by the {accountant} accountant.{checked}"


def limits(entry: Entry) -> list[str]:
    """What no differential-privacy figure of this unit covers."""
    thing = words(entry).thing
    general = f"Facts about the population that a model would learn without any one {thing} can still be inferred."
    if entry.get("unit") == "client":
        return ["People whose data lie with several clients are protected less: the limits add up.", general]
    return [
        "A person with several records is protected less: for two records the limit is twice ε, for ten ten times, "
        "and the slack δ grows faster still.",
        general,
    ]


def randomness(entry: Entry) -> list[str]:
    mode = entry.get("randomness")
    if mode == "secure":
        return ["The noise came from the operating system’s entropy (“secure”), as real data require."]
    if mode == "reproducible":
        return [
            "The noise was drawn reproducibly, from a seed: whoever knows the seed can compute the noise and take it "
            "away again. This is simulation-grade. With real data the mode would have to be “secure”."
        ]
    return ["How the noise was drawn is not recorded. With real data it would have to be “secure”."]


def sections(entry: Entry) -> list[Section]:
    """The whole prose of a guarantee, in reading order."""
    return [
        ("What is protected", what_is_protected(entry)),
        ("What the number means", what_epsilon_means(entry)),
        ("How strong that is", how_strong(entry)),
        ("Against whom it holds, and against whom not", against_whom(entry)),
        ("What it rests on", assumptions(entry)),
        ("How it was reached", how_it_was_reached(entry)),
        ("What it does not cover", limits(entry)),
        ("Where the noise came from", randomness(entry)),
    ]
