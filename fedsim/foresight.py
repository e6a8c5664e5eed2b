"""A plan as an object for notebooks: ``fedsim.plan``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.frames import frame, html_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fedsim.scenario import Scenario


@dataclass(frozen=True)
class Plan:
    """What a scenario will spend; ``facts`` is what ``fedsim plan SCENARIO --json`` prints, infinity as a number."""

    facts: dict[str, Any]

    def to_frame(self) -> Any:
        """Epsilon over the rounds as a ``pandas.DataFrame``, a line for each unit and round."""
        rows = [{"unit": unit["unit"], **row} for unit in self.facts["privacy"] for row in unit["table"]]
        return frame(rows)

    def plot(self) -> Figure:
        """Epsilon over the rounds with every unit's budget, as a ``matplotlib.figure.Figure``."""
        from fedsim.report.canvas import draw, figure_of

        return figure_of([draw("plan", "Privacy over the rounds", "What the scenario will spend.", self._paint)])

    def _paint(self, figure: Figure, axes: Axes) -> None:
        from fedsim.report.canvas import MUTED
        from fedsim.report.figures import UNIT_LOOK, UNIT_NAMES

        for unit in self.facts["privacy"]:
            colour, marker = UNIT_LOOK.get(unit["unit"], (MUTED, "x"))
            at, spent = [row["round"] for row in unit["table"]], [row["epsilon"] for row in unit["table"]]
            name = UNIT_NAMES.get(unit["unit"], "no privacy: ε = ∞")
            axes.plot(at, spent, color=colour, marker=marker, markersize=3.5, label=name)
            if unit.get("budget"):
                axes.axhline(unit["budget"], color=colour, linestyle="--", linewidth=1.2, label=f"budget, {name}")
        axes.set_xlabel("Round (number)")
        axes.set_ylabel("ε spent (no unit)")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside upper left")

    def __repr__(self) -> str:
        from fedsim.console import as_lines

        return as_lines(self.facts)

    def _repr_html_(self) -> str:
        return html_lines(repr(self))


def plan(scenario: Scenario | str | Path, rows: int = 10, target_epsilon: float | None = None) -> Plan:
    """What a scenario (or its file) will spend, before it is run; raises ``BadInput``.

    ``rows`` is how many rounds are shown; ``target_epsilon`` asks for the noise, rounds or cohort that would meet it.
    """
    from fedsim.planning_scenario import foresee, plan_scenario

    if isinstance(scenario, str | Path):
        return Plan(plan_scenario(scenario, (), rows, target_epsilon))
    return Plan(foresee(scenario, rows, target_epsilon))
