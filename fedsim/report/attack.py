"""The simulated attack: what it was, what stood against it, and what came of it."""

from typing import TYPE_CHECKING

from fedsim.report import plain
from fedsim.report.canvas import BLUE, VERMILLION, Panel, draw
from fedsim.report.figures import SUCCESS, line, series
from fedsim.report.inputs import Json
from fedsim.report.metrics import final_metric, is_share, metric_text, metric_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def facts(summary: Json) -> list[tuple[str, str]]:
    """Which attack there was, by how many, against what, and how the final model fares; empty without one."""
    attack = summary.get("attack")
    if not isinstance(attack, dict):
        return []
    rows = [
        ("Attack", f"{attack.get('kind')}: {attack.get('about')}"),
        ("Its settings", ", ".join(_settings(attack.get("settings") or {}))),
        ("Attackers", f"{plain.count(attack.get('attackers'))} of {plain.plural(attack.get('clients'), 'client')}"),
        ("What stands against it", "; ".join(map(str, attack.get("defences") or [])) or "nothing"),
    ]
    clean, success = final_metric(summary), plain.finite((summary.get("metrics") or {}).get(SUCCESS))
    if clean is not None:
        rows.append((f"{metric_title(clean[0])} on clean test records", metric_text(*clean)))
    if success is not None:
        rows.append(("Attack success", f"{plain.percent(success)} of the test records that show it"))
    return [(name, value) for name, value in rows if value]


def _settings(table: Json, path: str = "") -> list[str]:
    """The settings by their dotted names."""
    nested = [_settings(value, f"{path}{key}.") for key, value in table.items() if isinstance(value, dict)]
    own = [f"{path}{key} = {value}" for key, value in table.items() if not isinstance(value, dict)]
    return own + [text for part in nested for text in part]


def panels(summary: Json, rounds: list[Json]) -> list[Panel]:
    """Clean metric and success over the rounds, where success is measured and the metric is a share too."""
    clean, success = final_metric(summary), series(rounds, SUCCESS)
    if not isinstance(summary.get("attack"), dict) or clean is None or not is_share(clean[0]) or not success:
        return []
    title, points = metric_title(clean[0]), series(rounds, clean[0])
    ends = f"after round {success[-1][0]} {plain.percent(success[-1][1])}"
    caption = (
        "Of the test records that show whether the attack succeeds, the share that the model calls what the attackers "
        f"want: {ends}. Beside it the {title[:1].lower() + title[1:]} on clean test records."
    )

    def paint(figure: "Figure", axes: "Axes") -> None:
        for name, values, colour, marker in ((title, points, BLUE, "o"), ("attack success", success, VERMILLION, "s")):
            if values:
                line(axes, [(at, 100 * value) for at, value in values], colour, marker, name)
        axes.set_ylabel("Share (%)")
        axes.set_ylim(0, 102)
        figure.legend(loc="outside upper left", ncols=2)

    return [draw("attack", "Attack success over the rounds", caption, paint, 3.0)]
