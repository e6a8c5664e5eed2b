"""What tells scenarios apart, in few words: the settings that differ, and sections that only some of them have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fedsim.report.keys import short_names

Settings = dict[str, Any]
MOST = 5  # so many differing settings fit into a label
PROTECTION = ("privacy.example", "privacy.client")
# What a section is told by that is the same wherever it is there, and what its other settings hang on.
TELLING = ("target_epsilon", "noise_multiplier", "name", "kind", "optimizer")
NAMING = ("name", "kind", "source")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, under dotted keys."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        found |= flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return found


def differing(settings: Sequence[Settings]) -> list[str]:
    """The dotted keys that are not the same everywhere, sorted."""
    seen: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for each in settings:
        for key, value in each.items():
            seen.setdefault(key, set()).add(repr(value))
            counts[key] = counts.get(key, 0) + 1
    return sorted(key for key, values in seen.items() if len(values) > 1 or counts[key] < len(settings))


def setting_text(value: Any) -> str:
    """A setting as it is written, a dash where a scenario has none."""
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value).lower()
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def labels(settings: Sequence[Settings], names: Sequence[str]) -> list[str]:
    """What tells scenarios apart by their settings; by their names where more than a few differ and names do too.

    A section that a scenario lacks is one difference. The labels need not be distinct.
    """
    if len(settings) < 2:
        return list(names)
    telling = _telling(settings)
    if len(telling.keys) > MOST:
        if len(set(names)) == len(names):
            return list(names)
        telling = Telling(_most_varied(settings, telling.keys), telling.sections)
    return [telling.label(each) for each in settings]


@dataclass(frozen=True)
class Telling:
    """The dotted keys that tell scenarios apart, and the sections that some of them lack."""

    keys: list[str]
    sections: list[str]

    def label(self, settings: Settings) -> str:
        """What these say of one scenario."""
        short = short_names([_stem(key) for key in self.keys])
        has = {key: f"{short[_stem(key)]}={setting_text(settings[key])}" for key in self.keys if key in settings}
        inside = _prefixes(settings)
        lacks = [_without(section, inside) for section in self.sections if section not in inside]
        found = [*dict.fromkeys(lacks), *has.values()]
        return ", ".join(found) or ", ".join(f"no {short[_stem(key)]}" for key in self.keys[:1]) or "with all sections"


def _telling(settings: Sequence[Settings]) -> Telling:
    """A key tells where it varies among those that have its section; one key stands for a section that never varies."""
    prefixes = [_prefixes(each) for each in settings]
    partly = {key: _partly(key, prefixes) for key in differing(settings)}
    sections = list(dict.fromkeys(section for key, section in partly.items() if section not in (None, key)))
    keys = [key for key, section in partly.items() if section is None]
    keys += [key for key, section in partly.items() if section == key and not _implied(key, keys, settings)]
    for section in sections:
        within = [
            {key: value for key, value in each.items() if key.startswith(f"{section}.")}
            for each, there in zip(settings, prefixes, strict=True)
            if section in there
        ]
        inside = _telling(within).keys if len(within) > 1 else []
        keys += inside or _representative({key for each in within for key in each})
    return Telling(sorted(keys, key=_rank), sections)


def _rank(key: str) -> tuple[bool, bool, str]:
    """Privacy first, then what things are called, for a label may be cut off."""
    return not key.startswith("privacy."), key.rpartition(".")[2] not in NAMING, key


def _partly(key: str, prefixes: Sequence[set[str]]) -> str | None:
    """The widest section around a key that only some scenarios have: the key itself if it is one's only lack."""
    return next((each for each in _above(key) if any(each not in there for there in prefixes)), None)


def _implied(key: str, varying: Iterable[str], settings: Sequence[Settings]) -> bool:
    """Whether a setting is there because of the kind of its table, which differs, and says nothing more than that."""
    table = key.rpartition(".")[0]
    values = {repr(each[key]) for each in settings if key in each}
    return len(values) == 1 and any(f"{table}.{name}" in varying for name in NAMING)


def _representative(keys: Iterable[str]) -> list[str]:
    """The key that a section is told by, else its first."""
    ordered = sorted(keys)
    return [next((key for name in TELLING for key in ordered if key.endswith(f".{name}")), ordered[0])]


def _without(section: str, inside: set[str]) -> str:
    if section in PROTECTION and inside.isdisjoint(PROTECTION):
        return "no privacy"
    last = section.rpartition(".")[2]
    return f"no {last} privacy" if section in PROTECTION else f"no {last}"


def _most_varied(settings: Sequence[Settings], keys: Sequence[str]) -> list[str]:
    values = {key: len({repr(each.get(key)) for each in settings}) for key in keys}
    chosen = sorted(keys, key=lambda key: -values[key])[:MOST]
    return [key for key in keys if key in chosen]


def _stem(key: str) -> str:
    """A key without what every such table has: "model.name" is the model."""
    table, _, last = key.rpartition(".")
    return table if last in NAMING and table else key


def _prefixes(settings: Settings) -> set[str]:
    return {part for key in settings for part in _above(key)}


def _above(key: str) -> list[str]:
    """The sections around a key, the widest first, and the key itself."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
