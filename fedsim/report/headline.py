"""The first screen: what was trained, how good it is, what privacy it cost."""

import math
from dataclasses import dataclass

from fedsim.report import folds, plain
from fedsim.report.inputs import Json, RunRecord
from fedsim.report.metrics import STATUS, final_metric, metric_text, metric_title, own_metric, parted, scored
from fedsim.report.statement import UNITS, Entry, spent

NAMES = {"example": "for one single record", "client": "for everything one client holds"}


@dataclass(frozen=True)
class Tile:
    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Status:
    name: str
    sentence: str
    reason: str
    early: bool


def status(summary: Json) -> Status:
    code = str(summary.get("status"))
    name, sentence = STATUS.get(code, (code, f"The run ended with the status “{code}”."))
    return Status(name, sentence, str(summary.get("status_reason") or ""), code != "completed")


def guarantee(privacy: list[Entry], unit: str) -> Entry | None:
    """The finite guarantee for `unit`, if there is one."""
    return next((entry for entry in privacy if entry.get("unit") == unit and math.isfinite(spent(entry))), None)


def paragraph(record: RunRecord) -> str:
    """The summary in one short paragraph."""
    privacy = _privacy(record.summary.get("privacy") or [])
    if folds.is_cross_validation(record.summary):
        return " ".join([folds.quality(record.summary), _trained(record), *privacy])
    return " ".join([_trained(record), _quality(record.summary), *privacy])


def _trained(record: RunRecord) -> str:
    summary, clients = record.summary, record.clients
    model = f"A model “{summary.get('model', 'unnamed')}” {_size(summary)}"
    held, people = plain.plural(clients.get("records"), "record"), plain.plural(clients.get("clients"), "client")
    if folds.is_cross_validation(summary):
        return f"{model} {folds.trained(summary)} on the data of {people}; together they hold {held}."
    if not summary.get("rounds"):
        return f"{model} was set up, but no round of training was completed."
    rounds = plain.plural(summary["rounds"], "round")
    return f"{model} was trained in {rounds} on the data of {people}; together they hold {held}."


def _size(summary: Json) -> str:
    """How many parameters the model has, and how many of them train where some do not."""
    trained, total = (plain.count(summary.get(key)) for key in ("parameters", "parameters_total"))
    if total in (trained, plain.NOT_RECORDED):
        return f"with {trained} parameters"
    return f"with {total} parameters, of which {trained} {'were trained' if summary.get('rounds') else 'train'},"


def _quality(summary: Json) -> str:
    personal, own = summary.get("personal") or {}, own_metric(summary)
    unused = f"The global model is {personal['global_is']}: nobody uses it." if personal.get("global_is") else ""
    if own is None:
        return " ".join(filter(None, [_of_model(summary, "final"), unused]))
    title, text = metric_title(parted(own[0])[0]), metric_text(*own)
    mean = f"On the records that clients hold back, the mean of “{title}” over their own models is {text}."
    return f"{mean} {unused or _of_model(summary, 'global')}"


def _of_model(summary: Json, called: str) -> str:
    best, tested = final_metric(summary), summary.get("test_records")
    if best is None:
        return "Its quality was not measured."
    on = f"{plain.count(tested)} test records" if tested else "the test records"
    name, value = best
    if name == "accuracy":
        of = on if scored(summary) == "test records" else f"the characters of {on}"
        return f"The {called} model gives the right answer on {plain.percent(value)} of {of}."
    return f"On {on}, the {called} model reaches this value of “{metric_title(name)}”: {metric_text(name, value)}."


def _privacy(privacy: list[Entry]) -> list[str]:
    found = {unit: entry for unit in UNITS if (entry := guarantee(privacy, unit)) is not None}
    if not found:
        return ["No privacy is guaranteed: ε is infinite."]
    spendings = [
        f"ε = {plain.epsilon(entry['epsilon'])} (at δ = {plain.probability(entry.get('delta'))}) {NAMES[unit]}"
        for unit, entry in found.items()
    ]
    return [f"The privacy spent is {plain.listing(spendings)}; smaller is more private."]


def tiles(record: RunRecord) -> list[Tile]:
    """The key numbers."""
    summary, clients = record.summary, record.clients
    held = plain.plural(clients.get("records"), "record")
    privacy = summary.get("privacy") or []
    return [
        _quality_tile(summary),
        Tile("Clients", plain.count(clients.get("clients")), f"{held} in all"),
        _rounds_tile(summary),
        *(_epsilon_tile(privacy, unit) for unit in UNITS),
    ]


def _rounds_tile(summary: Json) -> Tile:
    planned = plain.count(summary.get("rounds_planned"))
    if folds.is_cross_validation(summary):
        number = folds.planned(summary)
        return Tile("Folds", plain.count(folds.finished(summary)), f"of {number}, {planned} rounds planned in each")
    return Tile("Rounds", plain.count(summary.get("rounds")), f"of {planned} planned")


def _quality_tile(summary: Json) -> Tile:
    best, tested = final_metric(summary), summary.get("test_records")
    if best is None:
        return Tile("Quality", "—", "not measured")
    if folds.is_cross_validation(summary):
        note = f"{folds.deviation(summary, best[0])} over {plain.plural(folds.finished(summary), 'fold')}"
        return Tile(metric_title(best[0]), metric_text(*best), note.strip())
    own = own_metric(summary)
    if own is not None:
        unused = (summary.get("personal") or {}).get("global_is")
        beside = "" if unused else f"; {metric_text(*best)} by the global model"
        return Tile(metric_title(parted(own[0])[0]), metric_text(*own), f"mean of the clients’ own models{beside}")
    note = f"on {plain.plural(tested, 'test record')}" if tested else "on test records"
    return Tile(metric_title(best[0]), metric_text(*best), note)


def _epsilon_tile(privacy: list[Entry], unit: str) -> Tile:
    entry, label = guarantee(privacy, unit), {"example": "ε per record", "client": "ε per client"}[unit]
    if entry is None:
        return Tile(
            label,
            "∞",
            "no guarantee of its own" if any(guarantee(privacy, other) for other in UNITS) else "no guarantee",
        )
    return Tile(label, plain.epsilon(entry["epsilon"]), f"at δ = {plain.probability(entry.get('delta'))}")
