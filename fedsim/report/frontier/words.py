"""The sweep in words: what was tried, what privacy costs, the knee, and the cheapest setting that is good enough."""

import math
from dataclasses import dataclass

from fedsim.report import plain
from fedsim.report.frontier.axes import sent
from fedsim.report.frontier.pareto import Point, cheapest, spare
from fedsim.report.frontier.settings import MEASURED, epsilon_of
from fedsim.report.frontier.view import EpsilonView, View, difference_text, epsilon_view, score_text
from fedsim.report.metrics import metric_text, metric_title
from fedsim.report.statistics import t_interval

OF = {"example": "one record", "client": "one client"}
MOST_FAILURES, MOST_NAMED = 50, 20
ENDS = {"failed": "failed", "pruned": "was pruned"}


@dataclass(frozen=True)
class Finding:
    """A paragraph with a heading."""

    title: str
    sentences: list[str]


@dataclass(frozen=True)
class Failure:
    """A run that came to nothing, and why."""

    name: str
    link: str
    ending: str
    reason: str


def opening(view: View) -> str:
    """What was tried, in a sentence or two."""
    runs, seeds = len(view.record.rows), {row["seed"] for row in view.record.rows}
    tried = (
        f"{plain.plural(len(view.settings), 'setting')} with {plain.plural(len(seeds), 'seed')}: "
        f"{plain.plural(runs, 'run')}."
    )
    if view.reference is None:
        without = "No setting without privacy was tried, so what privacy costs cannot be said."
    else:
        without = f"Without privacy, {named(view.metric)} is {score_text(view.metric, view.reference.score)}."
    return " ".join([tried, without, *_projected(view)])


def named(metric: str) -> str:
    """A metric inside a sentence: an abbreviation stays as it is."""
    title = metric_title(metric)
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def findings(view: View) -> list[Finding]:
    """What a reader came for, for every unit."""
    found = []
    for unit in view.units:
        seen = epsilon_view(view, unit)
        found += [_cheapest(view, unit, seen), _knee(view, unit, seen)]
    return [*found, *_baseline(view), Finding("How to read the numbers", _reading(view))]


def _cheapest(view: View, unit: str, seen: EpsilonView) -> Finding:
    title = f"The cheapest setting that reaches 95 % of the non-private {named(view.metric)}, for {OF[unit]}"
    if view.reference is None:
        return Finding(title, ["It cannot be named: there is no non-private baseline to take 95 % of."])
    if view.limit is None:
        score = metric_text(view.metric, view.reference.score.value)
        return Finding(
            title,
            [
                f"It cannot be named: the non-private baseline is {score}, and 95 % of what is not above "
                "0 means nothing."
            ],
        )
    limit = metric_text(view.metric, view.limit)
    if seen.cheapest is None:
        return Finding(title, [f"No setting with a guarantee reaches {limit}. {_best(view, seen)}"])
    point, divided = seen.cheapest, "" if view.higher else " (divided by 0.95, as less is better)"
    sentences = [
        f"It is {_described(view, point)}, at ε = {plain.epsilon(point.cost)}. Needed were {limit}, which is 95 % of "
        f"{metric_text(view.metric, view.reference.score.value)}{divided}.",
        _certainty(view, point),
    ]
    return Finding(title, [*sentences, *_cheapest_bytes(view, unit, point)])


def _certainty(view: View, point: Point) -> str:
    margins = [] if view.reference is None else spare(point.setting, view.reference.setting, view.higher)
    if len(margins) < 2:
        return "One seed gives no interval, so chance may have decided this."
    found = t_interval(margins)
    ends = " to ".join(difference_text(view.metric, end) for end in (found.low, found.high))
    if found.low >= 0:
        return f"At the same seeds as the baseline, the whole interval of what it has to spare ({ends}) is above 0."
    return (
        f"Its mean reaches that, but the interval of what it has to spare at the same seeds ({ends}) goes below 0: "
        "more seeds could name another setting."
    )


def _cheapest_bytes(view: View, unit: str, chosen: Point) -> list[str]:
    """Where data sent is the cost, another setting may be the cheapest."""
    points = [
        Point(each.setting, amount, each.score.value)
        for each in view.scored
        if each.setting.whole
        and math.isfinite(each.setting.epsilon(unit))
        and (amount := each.setting.mean(sent)) is not None
    ]
    best = cheapest(points, view.limit or 0.0, view.higher)
    if best is None or best.setting.number == chosen.setting.number or best.cost >= (chosen.setting.mean(sent) or 0):
        return []
    spent = plain.epsilon(best.setting.epsilon(unit))
    costs = f"with {plain.size(best.cost)}, at ε = {spent}"
    return [f"In data sent another is the cheapest: {_described(view, best)}, {costs}."]


def _best(view: View, seen: EpsilonView) -> str:
    front = [point for point in seen.front if math.isfinite(point.cost)]
    if not front:
        return "None has a guarantee."
    return f"The best with a guarantee: {_described(view, front[-1])}, at ε = {plain.epsilon(front[-1].cost)}."


def _knee(view: View, unit: str, seen: EpsilonView) -> Finding:
    title = f"The knee, for {OF[unit]}"
    rule = (
        "The rule: of the Pareto set, the point farthest above the straight line between its two ends, with ε on a log "
        "scale (“Kneedle”, Satopää et al. 2011)."
    )
    if seen.knee is None:
        few = "The Pareto set has fewer than three settings of finite ε, or no bend worth naming: there is no knee."
        return Finding(title, [f"{few} {rule}"])
    after = [point for point in seen.front if seen.knee.cost < point.cost < math.inf]
    more = ""
    if after:
        gain = difference_text(view.metric, abs(after[-1].score - seen.knee.score))
        more = (
            f" From there to ε = {plain.epsilon(after[-1].cost)}, the end of the Pareto set, "
            f"{named(view.metric)} {'rises' if view.higher else 'falls'} by {gain}."
        )
    spent = plain.epsilon(seen.knee.cost)
    return Finding(title, [f"It is {_described(view, seen.knee)}, at ε = {spent}.{more} {rule}"])


def _described(view: View, point: Point) -> str:
    score = score_text(view.metric, view.of(point.setting).score)
    return f"setting {point.setting.number} ({view.label(point.setting.values)}) with {named(view.metric)} {score}"


def _baseline(view: View) -> list[Finding]:
    sentences = []
    if view.reference is not None:
        score = score_text(view.metric, view.reference.score)
        number, values = view.reference.setting.number, view.label(view.reference.setting.values)
        sentences.append(f"Without privacy (ε = ∞): setting {number} ({values}) with {named(view.metric)} {score}.")
    if view.trivial is not None:
        value, how = view.trivial
        sentences.append(
            f"Without learning anything ({how}): {metric_text(view.metric, value)}. Below that line a model is useless."
        )
        sentences += _useless(view, value)
    return [Finding("What to compare with", sentences)] if sentences else []


def _useless(view: View, trivial: float) -> list[str]:
    """The settings that learnt nothing, as where training diverges without an error."""
    sign = 1 if view.higher else -1
    found = [str(each.setting.number) for each in view.scored if sign * each.score.value <= sign * trivial]
    return [f"No better than that: setting {plain.listing(found[:MOST_NAMED])}."] if found else []


def _reading(view: View) -> list[str]:
    several = any(each.score.known for each in view.scored)
    interval = (
        "“±” and bars: 95 % Student t intervals of the mean over the seeds of a setting. They take the results of the "
        "seeds for independent and normal, and hold for one setting at a time, not for all of them together."
        if several
        else "Every setting has one seed, so no interval can be given: small differences may be chance."
    )
    return [
        interval,
        *_few(view),
        *_partial(view),
        *(sentence for unit in view.units for sentence in _mixed(view, unit)),
        "The best of many settings looks better than it is, because the numbers that chose it are the numbers shown: "
        "measure the chosen setting again, with other seeds and on other records.",
        "ε of a setting is the largest over its seeds, and is for one run alone; what the whole sweep costs is stated "
        "under “The cost of looking”.",
    ]


def _few(view: View) -> list[str]:
    if max((each.score.repetitions for each in view.scored), default=0) != 2:
        return []
    return ["With two seeds an interval means little, and is very wide: five say far more."]


def _partial(view: View) -> list[str]:
    settings = [each for each in view.scored if not each.setting.whole]
    if not settings:
        return []
    return [
        f"Of {plain.plural(len(settings), 'setting')} some runs failed, were pruned or measured nothing. The mean of "
        "the others is shown, with how many they are, but flatters a setting that fails now and then: it is in no "
        "Pareto set, and is named as nothing here."
    ]


def _mixed(view: View, unit: str) -> list[str]:
    """That guarantees of one unit say different things, where they do."""
    rows = [row for row in view.record.rows if math.isfinite(epsilon_of(row, unit))]
    kinds = {name: {(row.get(name) or {}).get(unit) for row in rows} for name in ("relation", "adversary")}
    differing = [name for name, found in kinds.items() if len(found) > 1]
    if not differing:
        return []
    what = " and ".join({"relation": "neighbouring relations", "adversary": "adversaries"}[name] for name in differing)
    return [
        f"Beware: ε for {OF[unit]} holds for different {what} in different settings. These promise different things: a "
        "smaller ε is then not simply more private. Each run's own report states its guarantee whole."
    ]


def _projected(view: View) -> list[str]:
    if not any(row.get("projected") for row in view.record.rows):
        return []
    return [
        "ε for one client is projected: the noise of these simulations was rescaled to a larger, hypothetical cohort. "
        "It is what that deployment would guarantee; the clients simulated here have no such guarantee."
    ]


def counts(view: View) -> dict[str, int]:
    """How many runs ended in which way."""
    ends = [str(row.get("status")) for row in view.record.rows]
    return {end: ends.count(end) for end in sorted(set(ends))}


def failures(view: View) -> list[Failure]:
    """The first runs that failed or were pruned, failures first."""
    rows = [row for row in view.record.rows if row.get("status") not in MEASURED]
    rows.sort(key=lambda row: row.get("status") != "failed")
    return [
        Failure(
            f"Setting {row['trial']}, seed {row['seed']} ({view.label(row.get('values') or {})})",
            view.links[(row["trial"], row["seed"])],
            f"{ENDS.get(str(row.get('status')), str(row.get('status')))} after "
            f"{plain.plural(row.get('rounds'), 'round')}",
            str(row.get("error") or ""),
        )
        for row in rows[:MOST_FAILURES]
    ]
