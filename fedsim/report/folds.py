"""A cross-validation: its headline, and a row for each fold with a link to the fold's own report."""

import re
from dataclasses import dataclass

from fedsim.report import plain
from fedsim.report.inputs import Json
from fedsim.report.metrics import STATUS, final_metric, metric_text, metric_title


@dataclass(frozen=True)
class FoldRow:
    """What the table of folds says of one; `link` is relative to the report, or empty."""

    name: str
    link: str
    records: str
    metric: str
    loss: str
    status: str


def is_cross_validation(summary: Json) -> bool:
    """Whether the summary is that of several folds, not of one run."""
    return bool(summary.get("folds"))


def planned(summary: Json) -> int:
    """How many folds there were to be."""
    return int(summary.get("folds_planned") or len(summary["folds"]))


def finished(summary: Json) -> int:
    """How many folds were not interrupted, and so count in the mean."""
    return sum(fold.get("status") != "interrupted" for fold in summary["folds"])


def quality(summary: Json) -> str:
    """The main metric over the folds, in a sentence."""
    kind, best = f"{planned(summary)}-fold cross-validation", final_metric(summary)
    if best is None:
        return f"{kind}: its quality was not measured."
    name, value = best
    reached = f"{kind}: {_inside(metric_title(name))} {metric_text(name, value)}"
    spread, done = deviation(summary, name), finished(summary)
    if not spread:
        return f"{reached} ({'the only fold that was finished' if done == 1 else 'mean over folds'})."
    which = "folds" if done == planned(summary) else f"the {done} folds that were finished"
    return f"{reached} {spread} (mean and standard deviation over {which})."


def deviation(summary: Json, name: str) -> str:
    """The standard deviation of a metric over the folds as "± 7.8%"; empty where there is none."""
    spread = plain.finite((summary.get("metrics_std") or {}).get(name))
    return "" if spread is None else f"± {metric_text(name, spread)}"


def trained(summary: Json) -> str:
    """How often and how long the model was trained."""
    each = [plain.finite(fold.get("rounds")) or 0 for fold in summary["folds"]]
    low, high = plain.count(min(each)), plain.plural(max(each), "round")
    rounds = high if min(each) == max(each) else f"between {low} and {high}"
    times = {1: "once", 2: "twice"}.get(len(each), f"{len(each)} times")
    return f"was trained {times} from the start, in {rounds} each time and with another part of the records held back,"


def columns(summary: Json) -> list[str]:
    """The heads of the table."""
    return ["Fold", "Test records", metric_title(_main(summary)), "Loss", "Status"]


def rows(summary: Json) -> list[FoldRow]:
    """A row for each fold, in their order."""
    return [_row(fold, _main(summary)) for fold in summary.get("folds") or []]


def _row(fold: Json, main: str) -> FoldRow:
    metrics, code = fold.get("metrics") or {}, str(fold.get("status"))
    values = {name: plain.finite(metrics.get(name)) for name in (main, "loss")}
    shown = {name: "not defined" if size is None else metric_text(name, size) for name, size in values.items()}
    directory = str(fold.get("directory"))
    link = f"{directory}/report.html" if re.fullmatch(r"fold-[0-9]+", directory) else ""
    status = STATUS.get(code, (code, ""))[0]
    name = f"Fold {plain.count(fold.get('fold'))}"
    return FoldRow(name, link, plain.count(fold.get("test_records")), shown[main], shown["loss"], status)


def _main(summary: Json) -> str:
    best = final_metric(summary)
    return best[0] if best else str(summary.get("main_metric") or "accuracy")


def _inside(title: str) -> str:
    """A metric's title inside a sentence: an abbreviation stays as it is."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]
