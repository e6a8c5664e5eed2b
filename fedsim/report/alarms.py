"""What a reader must not overlook in a privacy entry: its own flags, and what contradicts a sound guarantee."""

import math
from collections.abc import Sequence

from fedsim.report import plain
from fedsim.report.statement import Entry, slack, spent, words

REQUIRED = (
    *("unit", "epsilon", "delta", "relation", "adversary", "accountant", "conversion", "sampling"),
    *("noise_multiplier", "rate", "steps", "clients", "delta_times_n", "randomness"),
)


def alarms(entry: Entry, rounds: Sequence[Entry] = ()) -> list[str]:
    """Every warning about this entry, each a sentence; the recorded ones first, none of them twice."""
    recorded = [str(flag) for flag in entry.get("flags") or []]
    found = _vacuous(entry) + _overspent(entry) + _understated(entry, rounds) + _incomplete(entry)
    return list(dict.fromkeys(recorded + found))


def _vacuous(entry: Entry) -> list[str]:
    expected, noise = plain.finite(entry.get("delta_times_n")), plain.finite(entry.get("noise_multiplier"))
    claimed = math.isfinite(spent(entry))
    checks = {
        f"ε is above 50: this guarantees practically nothing about one {words(entry).thing}.": claimed
        and spent(entry) > 50,
        "δ × n is 1 or more: the slack alone would allow exposing someone entirely.": expected is not None
        and expected >= 1,
        "A finite ε is claimed although no noise was added: do not rely on it.": claimed and noise == 0,
        "δ is 1 or more: the guarantee is empty.": slack(entry) >= 1,
    }
    return [sentence for sentence, holds in checks.items() if holds]


def _overspent(entry: Entry) -> list[str]:
    limits = {"budget": entry.get("budget"), "target": entry.get("target_epsilon")}
    return [
        f"More was spent (ε = {plain.epsilon(spent(entry))}) than the {name} of ε = {plain.epsilon(limit)} allows."
        for name, limit in limits.items()
        if (size := plain.finite(limit)) is not None and spent(entry) > size * (1 + 1e-6)
    ]


def _understated(entry: Entry, rounds: Sequence[Entry]) -> list[str]:
    """Where the record itself holds a larger epsilon than the statement, which must be the largest of all."""
    key = f"epsilon_{entry.get('unit')}"
    others = {
        "a single client": plain.number((entry.get("clients") or {}).get("max")),
        "a round": max((size for row in rounds if (size := plain.number(row.get(key))) is not None), default=None),
    }
    return [
        f"The record of {name} holds a larger ε = {plain.epsilon(other)} than this statement: do not rely on it."
        for name, other in others.items()
        if other is not None and other > spent(entry) * (1 + 1e-6)
    ]


def _incomplete(entry: Entry) -> list[str]:
    missing = [key for key in REQUIRED if entry.get(key) is None]
    if not missing:
        return []
    named = plain.listing(missing)
    return [f"The record leaves out {named}: a guarantee that is not stated whole cannot be relied on."]
