"""The cost of looking: what choosing among private runs spends, and what that figure assumes."""

import math
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.privacy.looking import Looking, charges, cost_of_looking
from fedsim.privacy.plan import Unit
from fedsim.privacy.selection import POISSON, Tries
from fedsim.report import plain
from fedsim.report.frontier.settings import Setting, epsilon_of
from fedsim.report.inputs import Json

if TYPE_CHECKING:
    from fedsim.report.frontier.view import View

BY = {"pld": "By privacy loss distributions", "rdp": "By Rényi divergences"}
OF = {"example": "one record", "client": "one client"}
Rows = list[tuple[str, str, str]]


@dataclass(frozen=True)
class Cost:
    """What the sweep costs a unit in numbers: the dearest run's own epsilon, what many cost, and runs with none."""

    delta: float
    run: float
    found: Looking
    open_runs: int

    def facts(self, covered: bool) -> Json:
        """The same for sweep.json; the theorem's figure only where it covers the sweep."""
        return {
            "delta": self.delta,
            "one_run": self.run,
            "one_setting": self.found.one,
            "one_setting_by": self.found.one_by,
            "everything": self.found.everything,
            "everything_by": self.found.everything_by,
            "best_of_random_tries": self.found.best if covered else None,
            "runs_without_a_guarantee": self.open_runs,
        }


@dataclass(frozen=True)
class Bill:
    """What the sweep costs one unit: a table of case, epsilon and what it assumes; or why there is no figure."""

    title: str
    rows: Rows
    notes: list[str]


def is_public(view: "View") -> bool:
    return str(view.record.sweep.get("selection") or "private") == "public"


def stance(view: "View") -> list[str]:
    """What the sweep says about its own data, and what follows."""
    if is_public(view):
        return [
            "This sweep declares its selection public: the records that score the settings, and the records that the "
            "runs learn from, are assumed to be public. Nothing here checks it.",
            "Public validation records alone are not enough. Every run learns from the training records: if those are "
            "private, which setting won says something about them, whoever scored it. Then the figures below hold.",
        ]
    return [
        "Every run learns from the private records, so which setting won says something about them: choosing is not "
        "free, and the ε of the chosen run alone is too small.",
        "The figures are for the records that the runs trained on. The scores of this report are released without "
        "noise: nothing protects the records that they were computed on, if those are private.",
    ]


def costs(view: "View") -> dict[str, Cost | str]:
    """The cost for every unit that some run gives a guarantee for, or why it cannot be computed."""
    return {unit: _cost(view, unit) for unit in view.units}


def facts(view: "View") -> Json:
    """The same for sweep.json."""
    found = view.costs.items()
    return {unit: {"error": each} if isinstance(each, str) else each.facts(is_covered(view)) for unit, each in found}


def bills(view: "View") -> list[Bill]:
    """The cost for every unit in words."""
    return [_bill(view, unit, cost) for unit, cost in view.costs.items()]


def _cost(view: "View", unit: str) -> Cost | str:
    try:
        runs = [_runs(view, each, unit) for each in view.settings]
        ledgers = [[_ledger(view, row) for row in each.rows] for each in runs if each.rows]
        found = cost_of_looking(ledgers, _unit(unit), _delta(view, unit), _tries(view, len(ledgers)))
    except (OSError, sqlite3.Error, ValueError) as error:
        return f"It cannot be computed from the ledgers of the runs: {error}."
    run = max(epsilon_of(row, unit) for row in view.record.rows if math.isfinite(epsilon_of(row, unit)))
    told = all(len(each.rows) <= 1 and all(math.isfinite(epsilon_of(row, unit)) for row in each.rows) for each in runs)
    if told and run < found.one:  # each setting is one run, whose own report says what it costs
        found = replace(found, one=run, one_by="pld")
    return Cost(_delta(view, unit), run, found, sum(each.unguarded for each in runs))


def _bill(view: "View", unit: str, cost: Cost | str) -> Bill:
    title = f"For {OF[unit]}"
    if isinstance(cost, str):
        return Bill(title, [], [cost])
    return Bill(title, _rows(view, cost), _notes(view, unit, cost.found))


def _unit(unit: str) -> Unit:
    return "client" if unit == "client" else "example"


@dataclass(frozen=True)
class _Runs:
    """The runs of a setting that charged a unit, and how many released something without a guarantee for it."""

    rows: list[Json]
    unguarded: int


def _runs(view: "View", setting: Setting, unit: str) -> _Runs:
    ended = [row for row in setting.rows if row.get("status") != "failed" and row.get("rounds") != 0]
    failed = [row for row in setting.rows if row not in ended]
    guarded = [row for row in ended if math.isfinite(epsilon_of(row, unit))]
    # What ended before its first round says nothing of what it spent, but its ledger does.
    charged = [row for row in failed if _charged(view, row, unit)]
    trained = sum(_trained(view, row) and row not in charged for row in failed)
    return _Runs(guarded + charged, len(ended) - len(guarded) + trained)


def _charged(view: "View", row: Json, unit: str) -> bool:
    run = view.record.run(row)
    return run is not None and (run / "ledger.db").is_file() and charges(run / "ledger.db", _unit(unit))


def _trained(view: "View", row: Json) -> bool:
    """Whether a failed run ended a round."""
    run = view.record.run(row)
    return run is not None and (run / "rounds.jsonl").is_file() and (run / "rounds.jsonl").stat().st_size > 0


def _ledger(view: "View", row: Json) -> Path:
    """Raises FileNotFoundError where a run's ledger is gone: what it spent is then unknown."""
    run = view.record.run(row)
    if run is None or not (run / "ledger.db").is_file():
        raise FileNotFoundError(f"setting {row['trial']}, seed {row['seed']} has no ledger.db")
    return run / "ledger.db"


def _delta(view: "View", unit: str) -> float:
    deltas = [plain.finite((row.get("delta") or {}).get(unit)) for row in view.record.rows if row.get("delta")]
    known = [delta for delta in deltas if delta]
    if not known:
        raise ValueError("the record does not say the delta of the runs")
    return max(known)


def _tries(view: "View", settings: int) -> Tries:
    """How the number of settings was drawn, where the sweep says so; else a geometric number with their mean."""
    drawn = view.record.sweep.get("tries") or {}
    mean, shape = plain.finite(drawn.get("mean")), plain.number(drawn.get("shape"))
    return Tries(mean or max(1.0, float(settings)), 1.0 if shape is None else shape)


def is_covered(view: "View") -> bool:
    """Whether the sweep drew what the theorem wants: settings at random, and a random number of them."""
    sweep = view.record.sweep
    return sweep.get("method") == "random" and bool(sweep.get("tries")) and not _pruned(view)


def _adaptive(view: "View") -> bool:
    """Whether earlier results chose what was run later: no drawing at random has anything to do with that."""
    return view.record.sweep.get("method") not in ("grid", "random") or _pruned(view)


def _pruned(view: "View") -> bool:
    return any(row.get("status") == "pruned" for row in view.record.rows)


def _rows(view: "View", cost: Cost) -> Rows:
    found, open_runs = cost.found, cost.open_runs
    tries = found.tries
    law = {POISSON: "Poisson", 1.0: "geometric", 0.0: "logarithmic"}.get(tries.shape, "negative binomial")
    drawn = f"a secret random number of settings ({law}, mean {plain.count(tries.mean)})"
    with_open = [] if not open_runs else [("Everything, with the runs without a guarantee", "∞", _open(open_runs))]
    without = ", those without a guarantee left out" if open_runs else ""
    best = "The best setting, and nothing else" if is_covered(view) else "The best setting, had the sweep been drawn so"
    drawn_once = (
        f"{best}{without}",
        plain.epsilon(found.best),
        f"Papernot and Steinke 2022 (arXiv 2110.03620): {drawn}, each drawn independently of the data, none "
        "dearer than those tried; only the winner is published. By Rényi divergences",
    )
    return [
        ("One run, fixed beforehand", plain.epsilon(cost.run), "What the report of that run says; of all, the dearest"),
        (
            "One setting, fixed beforehand",
            plain.epsilon(found.one),
            f"Its seeds together; of the settings, the dearest. {BY[found.one_by]}",
        ),
        *([] if _adaptive(view) else [drawn_once]),
        (
            f"Everything in this report{without}",
            plain.epsilon(found.everything),
            "Naive composition of all runs: holds for a grid, for adaptive search and for whoever reads this report. "
            f"{BY[found.everything_by]}",
        ),
        *with_open,
    ]


def _open(runs: int) -> str:
    return (
        f"{plain.plural(runs, 'run')} trained without noise. If those saw the private records and anything of them "
        "was looked at, nothing is guaranteed"
    )


def _notes(view: "View", unit: str, found: Looking) -> list[str]:
    notes = [_covered(view), *_same_noise(view, unit)]
    if found.best > found.everything and not _adaptive(view):
        notes.append("With so few settings the theorem gains nothing: adding up all runs costs less than its figure.")
    delta = plain.probability(_delta(view, unit))
    rounded = (
        ""
        if found.rounded == 1
        else f" The runs differ so much that noise and rates were rounded, by up to {100 * (found.rounded - 1):.3g} %, "
        "against the promise."
    )
    notes.append(
        f"All figures are upper bounds at δ = {delta}; every run counts by its worst client. The reports of single "
        "runs go by privacy loss distributions. Rényi divergences give somewhat larger figures; they stand where the "
        "theorem needs them, where the runs differ too much to be composed otherwise, and where no client of a run is "
        f"sure to lose most.{rounded}"
    )
    failed = sum(row.get("status") in ("failed", "pruned") for row in view.record.rows)
    if failed:
        notes.append(f"Runs that failed or were pruned ({failed}) count with what they had spent.")
    return notes


def _same_noise(view: "View", unit: str) -> list[str]:
    """That the noise of runs with the same seed is the same, where it was drawn from seeds."""
    rows = [row for row in view.record.rows if math.isfinite(epsilon_of(row, unit))]
    if all((row.get("randomness") or {}).get(unit) == "secure" for row in rows):
        return []
    return [
        "All figures that add up runs take the noise of the runs for independent. Here it was drawn from seeds: two "
        "settings with the same seed had the same noise, which the difference of their results cancels. So they are "
        "what this sweep would spend with privacy.randomness = “secure”; real records need that."
    ]


def _covered(view: "View") -> str:
    if is_covered(view):
        return "This sweep drew its settings and their number at random, as the theorem wants."
    method = str(view.record.sweep.get("method") or "not recorded")
    why = {
        "grid": "a grid of fixed size",
        "tpe": "a search in which earlier results choose later settings",
        "random": "a fixed number of settings",
    }.get(method, f"a search of the kind “{method}”")
    why = "a search with successive halving, in which earlier results choose later runs" if _pruned(view) else why
    holds = f"This sweep is {why}, which the theorem does not cover: for it only the composition of all runs holds."
    if _adaptive(view):
        return f"{holds} There is no figure for the best setting alone."
    return (
        f"{holds} The figure for the best setting says what a random number of randomly drawn settings would have cost "
        "instead."
    )
