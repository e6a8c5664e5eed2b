"""The first screen: what was trained, how good it is, what privacy it cost."""

import math
from dataclasses import dataclass

from fedsim.report import plain
from fedsim.report.inputs import Json, RunRecord
from fedsim.report.statement import UNITS, Entry, spent

STATUS = {
    "completed": ("Completed", "The run completed all planned rounds."),
    "budget_exhausted": ("Privacy budget used up", "The run stopped early, because the privacy budget was used up."),
    "early_stopped": ("Stopped early", "The run stopped early, because the model no longer improved."),
    "interrupted": ("Interrupted", "The run was interrupted: this report shows the part that was completed."),
}
# How metrics are called whose name does not say it, and in what they are measured.
TITLES = {"auroc": "AUROC", "macro_f1": "Macro-F1", "r2": "R²"}
METRIC_UNITS = {"psnr": "dB", "loss": "mean per test record", "r2": "1 is perfect, 0 no better than the mean"}
# What an ending says of which clients a metric is; p90 is the tail of what is better the smaller it is.
OF_CLIENTS = {
    "_mean": ", mean over clients",
    "_p10": " that nine of ten clients reach",
    "_p90": " that nine of ten clients do not exceed",
    "_worst": ", worst client",
    "_unseen": " on clients that never trained",
}
# What a share is one of, by the task, where that is not test records.
SCORED = {"next_character": "characters of the test records"}
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


def parted(name: str) -> tuple[str, str]:
    """A metric's name without, and with nothing but, what says of which clients it is: "accuracy" and "_worst"."""
    ending = next((ending for ending in OF_CLIENTS if name.endswith(ending)), "")
    return name.removesuffix(ending), ending


def is_share(metric: str) -> bool:
    """Whether a metric is a share of the test records, to be printed in percent."""
    return parted(metric)[0].rpartition("_")[2] in ("accuracy", "precision", "recall")


def metric_text(name: str, value: float) -> str:
    unit = " dB" if parted(name)[0] == "psnr" else ""
    return plain.percent(value) if is_share(name) else plain.quantity(value) + unit


def scored(summary: Json) -> str:
    """What the metrics count."""
    return SCORED.get(str(summary.get("task")), "test records")


def metric_title(name: str) -> str:
    """How a metric is called in the report: "Accuracy", "MSE", "Balanced accuracy", "Accuracy, worst client"."""
    base, ending = parted(name)
    short = len(base) <= 4 and base != "loss"
    plainly = base.upper() if short else (base[:1].upper() + base[1:]).replace("_", " ")
    return TITLES.get(base, plainly) + OF_CLIENTS.get(ending, "")


def final_metric(summary: Json) -> tuple[str, float] | None:
    """The metric a reader asks for first: the task's main one, accuracy, any other, else the loss."""
    metrics = summary.get("metrics") or {}
    known = {name: size for name, value in metrics.items() if (size := plain.finite(value)) is not None}
    others = (name for name in known if name not in ("accuracy", "loss"))
    order = [summary.get("main_metric"), "accuracy", *others, "loss"]
    return next(((name, known[name]) for name in order if name in known), None)


def status(summary: Json) -> Status:
    code = str(summary.get("status"))
    name, sentence = STATUS.get(code, (code, f"The run ended with the status “{code}”."))
    return Status(name, sentence, str(summary.get("status_reason") or ""), code != "completed")


def guarantee(privacy: list[Entry], unit: str) -> Entry | None:
    """The finite guarantee for `unit`, if there is one."""
    return next((entry for entry in privacy if entry.get("unit") == unit and math.isfinite(spent(entry))), None)


def paragraph(record: RunRecord) -> str:
    """The summary in one short paragraph."""
    return " ".join([_trained(record), _quality(record.summary), *_privacy(record.summary.get("privacy") or [])])


def _trained(record: RunRecord) -> str:
    summary, clients = record.summary, record.clients
    model = f"A model “{summary.get('model', 'unnamed')}” with {plain.count(summary.get('parameters'))} parameters"
    if not summary.get("rounds"):
        return f"{model} was set up, but no round of training was completed."
    rounds, held = plain.plural(summary["rounds"], "round"), plain.plural(clients.get("records"), "record")
    people = plain.plural(clients.get("clients"), "client")
    return f"{model} was trained in {rounds} on the data of {people}; together they hold {held}."


def _quality(summary: Json) -> str:
    best, tested = final_metric(summary), summary.get("test_records")
    if best is None:
        return "Its quality was not measured."
    on = f"{plain.count(tested)} test records" if tested else "the test records"
    name, value = best
    if name == "accuracy":
        of = on if scored(summary) == "test records" else f"the characters of {on}"
        return f"The final model gives the right answer on {plain.percent(value)} of {of}."
    return f"On {on}, the final model reaches this value of “{metric_title(name)}”: {metric_text(name, value)}."


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
    planned, held = summary.get("rounds_planned"), plain.plural(clients.get("records"), "record")
    privacy = summary.get("privacy") or []
    return [
        _quality_tile(summary),
        Tile("Clients", plain.count(clients.get("clients")), f"{held} in all"),
        Tile("Rounds", plain.count(summary.get("rounds")), f"of {plain.count(planned)} planned"),
        *(_epsilon_tile(privacy, unit) for unit in UNITS),
    ]


def _quality_tile(summary: Json) -> Tile:
    best, tested = final_metric(summary), summary.get("test_records")
    if best is None:
        return Tile("Quality", "—", "not measured")
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
