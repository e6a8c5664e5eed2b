"""Who took part, who was asked and did not deliver, and the devices on which that was simulated."""

from collections.abc import Mapping
from typing import Any

from fedsim.report import plain
from fedsim.report.inputs import Json, RunRecord

Facts = list[tuple[str, str]]


def people(record: RunRecord) -> str:
    """Who took part, in a few sentences."""
    clients, records = record.clients.get("clients"), record.clients.get("records")
    held = f"{plain.plural(clients, 'client')} with {plain.plural(records, 'record')}."
    asked = sum(plain.finite(row.get("cohort")) or 0 for row in record.rounds)
    if not asked:
        return held
    each, method = _each(record, asked), record.summary.get("asynchronous")
    if method:
        began = f"On average {each} of them began between two steps; {_dropped(record, asked)}."
        return f"{held} {_method(method)} {began}{_staleness(record)}{_rejected(record)}"
    fates = f"{_left_out(record)}{_dropped(record, asked)}"
    return f"{held} On average {each} of them were asked to take part in a round; {fates}.{_rejected(record)}"


def _each(record: RunRecord, total: float) -> str:
    return plain.count(round(total / len(record.rounds), 1))


def _dropped(record: RunRecord, asked: float) -> str:
    lost = sum(plain.finite(row.get("dropped")) or 0 for row in record.rounds)
    if not lost:
        return "none dropped out"
    found = record.summary.get("deliveries") or {}
    late, absent = (plain.finite(found.get(key)) or 0 for key in ("late", "absent"))
    causes = {"failed": lost - late - absent, "late": late, "not there": absent}
    split = ", ".join(f"{plain.count(number)} {cause}" for cause, number in causes.items() if number)
    why = f" ({split})" if late or absent else ""
    return f"{plain.count(lost)} of {plain.count(asked)} times one dropped out{why}"


def _rejected(record: RunRecord) -> str:
    """Where nodes sent what cannot be right."""
    found = record.summary.get("deliveries") or {}
    count = plain.finite(found.get("rejected")) or 0
    if not count:
        return ""
    times = "time" if count == 1 else "times"
    return f" {plain.count(count)} {times} a reply could not be right and did not count, as if it had not arrived."


def _left_out(record: RunRecord) -> str:
    """Where more were asked than were wanted."""
    found = record.summary.get("deliveries") or {}
    surplus = plain.finite(found.get("surplus")) or 0
    if not surplus:
        return ""
    used = _each(record, plain.finite(found.get("arrived")) or 0)
    return f"{used} were used and {_each(record, surplus)} left out, as others were faster (over-selection); "


def _method(method: Json) -> str:
    """An asynchronous run's rule, in a sentence."""
    places, buffer = plain.count(method.get("concurrency")), plain.plural(method.get("buffer_size"), "update")
    return (
        f"The run was asynchronous ({method.get('kind')}): at most {places} worked at a time, {buffer} made a step, "
        f"and late updates were weighted by the {_setting(method.get('staleness'))} rule."
    )


def _staleness(record: RunRecord) -> str:
    means = [size for row in record.rounds if (size := plain.finite(row.get("staleness_mean"))) is not None]
    most = max((plain.finite(row.get("staleness_max")) or 0 for row in record.rounds), default=0)
    if not means:
        return ""
    mean = plain.quantity(sum(means) / len(means))
    return f" An update was {mean} steps late on average (the mean of each step’s mean), at most {plain.count(most)}."


def notice(summary: Json) -> str:
    """A warning where more than half of those that were asked did not deliver; else nothing."""
    found = summary.get("deliveries") or {}
    asked, lost = (plain.finite(found.get(key)) or 0 for key in ("asked", "dropped"))
    if lost <= asked / 2:
        return ""
    spent = any(entry.get("unit") in ("example", "client") for entry in summary.get("privacy") or [])
    charged = " The privacy stated below is spent all the same." if spent else ""
    return (
        f"{plain.count(lost)} of {plain.count(asked)} times a client that was asked did not deliver: the model is made "
        f"by the few that did.{charged}"
    )


def device_facts(summary: Json) -> Facts:
    """What the simulated clients ran on, and when one counted as lost; empty where no time was simulated."""
    devices = summary.get("devices") or {}
    if not devices:
        return []
    speeds = [f"{key} {_setting(devices.get(key))}" for key in ("compute", "upload", "download", "availability")]
    rules = {key: value for key, value in devices.items() if not isinstance(value, Mapping) and value is not None}
    return [("Simulated devices", "; ".join(speeds)), ("Their rules", _pairs(rules | (devices.get("dropout") or {})))]


def _setting(value: Any) -> str:
    """A choice by its name, with its settings: "lognormal (median = 20, sigma = 1.5)"."""
    if not isinstance(value, Mapping):
        return plain.exact(value)
    rest = {key: item for key, item in value.items() if key != "kind" and item is not None}
    return f"{value.get('kind')} ({_pairs(rest)})" if rest else str(value.get("kind"))


def _pairs(values: Mapping[str, Any]) -> str:
    shown = {key: f"{value:g}" if isinstance(value, float) else plain.exact(value) for key, value in values.items()}
    return ", ".join(f"{key} = {text}" for key, text in shown.items())
