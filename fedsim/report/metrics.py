"""What metrics and the ends of runs are called in the report, and how a metric's value is printed."""

from fedsim.report import plain
from fedsim.report.inputs import Json

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
    "_personal_mean": ", mean over the clients' own models",
    "_personal_p10": " that nine of ten clients' own models reach",
    "_personal_p90": " that nine of ten clients' own models do not exceed",
    "_personal_worst": ", worst of the clients' own models",
    "_mean": ", mean over clients",
    "_p10": " that nine of ten clients reach",
    "_p90": " that nine of ten clients do not exceed",
    "_worst": ", worst client",
    "_unseen": " on clients that never trained",
}
# What a share is one of, by the task, where that is not test records.
SCORED = {"next_character": "characters of the test records"}


def parted(name: str) -> tuple[str, str]:
    """A metric's name without, and with nothing but, what says of which clients it is: "accuracy" and "_worst"."""
    ending = next((ending for ending in OF_CLIENTS if name.endswith(ending)), "")
    return name.removesuffix(ending), ending


def is_share(metric: str) -> bool:
    """Whether a metric is a share of the test records, to be printed in percent."""
    return parted(metric)[0].rpartition("_")[2] in ("accuracy", "precision", "recall", "success")


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


def own_metric(summary: Json) -> tuple[str, float] | None:
    """The mean over the clients' own models of the metric that they are compared by, where they have been measured."""
    name = (summary.get("personal") or {}).get("metric")
    value = plain.finite((summary.get("metrics") or {}).get(name))
    return (str(name), value) if value is not None else None


def final_metric(summary: Json) -> tuple[str, float] | None:
    """The metric a reader asks for first: the task's main one, accuracy, any other, else the loss."""
    metrics = summary.get("metrics") or {}
    known = {name: size for name, value in metrics.items() if (size := plain.finite(value)) is not None}
    others = (name for name in known if name not in ("accuracy", "loss"))
    order = [summary.get("main_metric"), "accuracy", *others, "loss"]
    return next(((name, known[name]) for name in order if name in known), None)
