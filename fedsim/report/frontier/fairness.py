"""Who pays: the metric client by client, with and without privacy, in the tail and by how much a client holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.report import plain
from fedsim.report.canvas import BLUE, GREEN, ORANGE, VERMILLION, Panel, draw
from fedsim.report.frontier.panels import metric_label, tick_values
from fedsim.report.frontier.settings import Setting, finite_epsilons
from fedsim.report.frontier.view import View, difference_text, epsilon_view
from fedsim.report.frontier.words import named
from fedsim.report.metrics import is_share, metric_text, metric_title
from fedsim.report.statistics import Interval, bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
WORST = 0.1
LOOKS = ((GREEN, "--", "^"), (VERMILLION, "-", "D"))


@dataclass(frozen=True)
class Clients:
    """What the clients of a setting reach, those of all its seeds together: sizes and values ``[clients]``."""

    setting: Setting
    name: str
    metric: str
    sizes: Floats
    values: Floats


def compared(view: View) -> list[Clients]:
    """The non-private setting and the private one that is pointed out first; only those whose record has clients."""
    chosen = [] if view.reference is None else [("without privacy", view.reference.setting)]
    for unit in view.units[:1]:
        seen = epsilon_view(view, unit)
        private = [each for each in (seen.cheapest, seen.knee, *reversed(seen.front)) if each and each.cost < np.inf]
        chosen += [(f"with ε = {plain.epsilon(each.cost)}", each.setting) for each in private[:1]]
    return [found for name, setting in chosen if (found := _clients(view, name, setting)) is not None]


def _clients(view: View, name: str, setting: Setting) -> Clients | None:
    documents = [view.record.document(row, "clients.json").get("metrics_by_client") for row in setting.measured]
    measured = [document for document in documents if isinstance(document, dict)]
    pairs = [pair for document in measured for row in document.get("clients") or [] if (pair := _pair(row))]
    if not pairs:
        return None
    sizes, values = np.array(pairs, dtype=np.float64).T
    return Clients(setting, name, str(measured[0].get("metric")), sizes, values)


def _pair(row: Any) -> tuple[float, float] | None:
    size, value = plain.finite(row.get("test_records")), plain.finite(row.get("value"))
    return (size, value) if size and value is not None else None


def worst_mean(higher: bool) -> Any:
    """The mean of the worst tenth (at least one) of each row, as the bootstrap wants it."""

    def statistic(samples: Floats) -> Floats:
        ordered = np.sort(samples if higher else -samples, axis=1)
        tail = ordered[:, : max(1, round(WORST * ordered.shape[1]))].mean(axis=1)
        return np.asarray(tail if higher else -tail)

    return statistic


def rows(view: View, groups: Sequence[Clients]) -> list[list[str]]:
    """Setting, clients, mean, and the mean of the worst tenth with its interval, as text."""
    return [
        [
            f"{each.name} (setting {each.setting.number})",
            plain.count(len(each.values)),
            metric_text(each.metric, float(each.values.mean())),
            _with_ends(each.metric, _tail(view, each)),
        ]
        for each in groups
    ]


def _tail(view: View, group: Clients) -> Interval:
    return bootstrap_interval(group.values.tolist(), worst_mean(view.higher))


def _with_ends(metric: str, found: Interval) -> str:
    value = metric_text(metric, found.value)
    return f"{value} ({metric_text(metric, found.low)} to {metric_text(metric, found.high)})" if found.known else value


def verdict(view: View, groups: Sequence[Clients]) -> str:
    """How much the average client pays for privacy and how much the worst tenth; empty without both settings."""
    if len(groups) < 2 or groups[0].metric != groups[1].metric:
        return ""
    without, private = groups
    sign = 1 if view.higher else -1
    average = sign * float(without.values.mean() - private.values.mean())
    tail = sign * (_tail(view, without).value - _tail(view, private).value)
    more = "more than" if tail > average else "no more than"
    costs = [difference_text(without.metric, each) for each in (average, tail)]
    return (
        f"In {named(without.metric)}, privacy costs the average client {costs[0]} and the worst tenth {costs[1]}: the "
        f"worst off pay {more} the average."
    )


def panels(view: View, groups: Sequence[Clients]) -> list[Panel]:
    """The distribution over clients, the thirds by size, and the tail against epsilon."""
    found = [_distribution(groups)] if groups else []
    if groups and len({size for size, _, _ in thirds(groups[0])}) > 1:
        found.append(_by_size(groups))
    return found + [panel for unit in view.units if (panel := _tail_panel(view, unit)) is not None]


def _factor(metric: str) -> float:
    return 100.0 if is_share(metric) else 1.0


def _distribution(groups: Sequence[Clients]) -> Panel:
    metric = groups[0].metric
    caption = (
        "How many of the clients reach at most the value below, the clients of all seeds together. A curve that "
        "starts farther left leaves someone farther behind."
    )

    def paint(figure: "Figure", axes: "Axes") -> None:
        for group, (colour, dash, _) in zip(groups, LOOKS, strict=False):
            values = np.sort(_factor(metric) * group.values)
            shares = 100 * np.arange(len(values) + 1) / len(values)
            axes.step([values[0], *values], shares, where="post", color=colour, linestyle=dash, label=group.name)
        axes.set_xlabel(metric_label(metric))
        axes.set_ylabel("Clients at or below (%)")
        axes.set_ylim(0, 102)
        figure.legend(loc="outside upper left", ncols=2)

    return draw("fair-distribution", f"{metric_title(metric)}, client by client", caption, paint, 3.0)


def thirds(group: Clients) -> list[tuple[float, float, float]]:
    """Median size, mean and standard error of each third of the clients by size; empty thirds left out."""
    order = np.argsort(group.sizes, kind="stable")
    parts = [part for part in np.array_split(order, 3) if len(part)]
    return [
        (
            float(np.median(group.sizes[part])),
            float(group.values[part].mean()),
            float(group.values[part].std(ddof=1) / np.sqrt(len(part))) if len(part) > 1 else 0.0,
        )
        for part in parts
    ]


def _by_size(groups: Sequence[Clients]) -> Panel:
    metric = groups[0].metric
    names = ["smallest third", "middle third", "largest third"]
    held = [f"{plain.count(size)}" for size, _, _ in thirds(groups[0])]
    caption = (
        "The clients in thirds by how many test records they hold back, which grows with what they hold: mean and "
        f"standard error. The median client of the thirds holds back {plain.listing(held)} records."
    )

    def paint(figure: "Figure", axes: "Axes") -> None:
        for shift, (group, (colour, _, marker)) in enumerate(zip(groups, LOOKS, strict=False)):
            found = thirds(group)
            at = [index + 0.16 * (shift - 0.5) for index in range(len(found))]
            means, errors = ([_factor(metric) * row[key] for row in found] for key in (1, 2))
            axes.errorbar(at, means, errors, color=colour, marker=marker, linestyle="none", label=group.name)
        axes.set_xticks(range(len(held)), names[: len(held)])
        axes.set_xlim(-0.5, len(held) - 0.5)
        axes.set_xlabel("Clients by size (thirds)")
        axes.set_ylabel(metric_label(metric))
        axes.grid(visible=False, axis="x")
        figure.legend(loc="outside upper left", ncols=2)

    return draw("fair-size", f"{metric_title(metric)} by how much a client holds", caption, paint, 3.0)


def _tail_panel(view: View, unit: str) -> Panel | None:
    """Mean over clients, the bad tail and the worst client against epsilon, where the runs measure them."""
    settings = sorted(finite_epsilons(view.settings, unit), key=lambda each: each.epsilon(unit))
    measured = {name for each in settings for row in each.measured for name in row.get("metrics") or {}}
    base = next((name.removesuffix("_worst") for name in sorted(measured) if name.endswith("_worst")), None)
    if base is None:
        return None
    lines = [(name, each) for name, ending in ENDINGS if (each := _line(settings, unit, base + ending))]
    thing = "record" if unit == "example" else "client"
    ends = [at for _, line in lines for at, _ in line]

    def paint(figure: "Figure", axes: "Axes") -> None:
        axes.set_xscale("log")
        for (name, line), (colour, marker) in zip(lines, ((BLUE, "o"), (ORANGE, "s"), (VERMILLION, "v")), strict=False):
            x, y = zip(*line, strict=True)
            axes.plot(x, [_factor(base) * value for value in y], color=colour, marker=marker, markersize=4, label=name)
        ticks = tick_values(min(ends), max(ends))
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(f"ε for one {thing} (no unit, log scale)")
        axes.set_ylabel(metric_label(base))
        figure.legend(loc="outside upper left", ncols=2)

    caption = (
        "Means over seeds: of the average over clients, of what nine of ten clients reach, and of the worst client."
    )
    title = f"{metric_title(base)} of the worst off against ε for one {thing}"
    return draw(f"fair-tail-{unit}", title, caption, paint, 3.0) if ends else None


ENDINGS = (
    *(("mean over clients", "_mean"), ("nine of ten reach", "_p10"), ("nine of ten stay within", "_p90")),
    ("worst client", "_worst"),
)


def _line(settings: Sequence[Setting], unit: str, metric: str) -> list[tuple[float, float]]:
    found = [(each.epsilon(unit), each.interval(metric)) for each in settings]
    return [(at, interval.value) for at, interval in found if interval is not None and at > 0]
