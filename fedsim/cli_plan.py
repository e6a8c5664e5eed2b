"""``fedsim plan``: privacy before it is spent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperCommand

from fedsim.errors import BadInput

SET_HELP = "Set any value of the scenario, e.g. --set privacy.example.target_epsilon=2 (repeatable)."


class PlanCommand(TyperCommand):
    """Typer knows no option whose value may be left out: a bare ``--table`` means its default number of rows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write the default after every ``--table`` that no number follows."""
        full: list[str] = []
        for word, following in zip(args, [*args, ""][1:], strict=True):
            full += [word, "10"] if word == "--table" and not following.lstrip("-").isdigit() else [word]
        return super().parse_args(ctx, full)


def plan(
    scenario: Annotated[
        Path | None, typer.Argument(metavar="[SCENARIO]", help="Predict what a scenario spends.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Sampling rate of a step or round.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier.")] = None,
    target_epsilon: Annotated[
        float | None, typer.Option(help="Find the noise, or with --noise the steps; of a SCENARIO all that meets it.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps or rounds.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta (default 1e-5).")] = None,
    relation: Annotated[str | None, typer.Option(help="add-remove or replace-one.")] = None,
    sampling: Annotated[str | None, typer.Option(help="poisson (default), fixed or none.")] = None,
    population: Annotated[int | None, typer.Option(help="Number of members.")] = None,
    cohort: Annotated[int | None, typer.Option(help="Members that take part each time.")] = None,
    table: Annotated[int | None, typer.Option(metavar="[ROWS]", help="Show epsilon over the steps (10 rows).")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Say what a ledger file has spent.")] = None,
    budget_epsilon: Annotated[float | None, typer.Option(help="Say what this budget leaves of --ledger.")] = None,
    export: Annotated[Path | None, typer.Option(help="Write the events of --ledger to this file.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help=SET_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Privacy before it is spent: epsilon, noise or steps from the others; a scenario's cost; a ledger's balance."""
    settings = {
        "rate": rate,
        "noise_multiplier": noise,
        "target_epsilon": target_epsilon,
        "steps": steps,
        "delta": delta,
        "relation": relation,
        "sampling": sampling,
        "population": population,
        "cohort": cohort,
        "table_rows": table,
    }
    of_ledger = {"budget_epsilon": budget_epsilon, "export": export}
    _show(_planned(scenario, ledger, settings | of_ledger, overrides or []), as_json)


def _planned(
    scenario: Path | None, ledger: Path | None, settings: dict[str, Any], overrides: list[str]
) -> dict[str, Any]:
    """The answer to the question that was asked; raises ``BadInput`` for a setting that has nothing to do with it."""
    from fedsim.planning import Question, answer
    from fedsim.planning_ledger import plan_ledger

    given = {name: value for name, value in settings.items() if value is not None}
    if scenario is not None:
        return _of_scenario(scenario, overrides, given | ({} if ledger is None else {"ledger": ledger}))
    if overrides:
        raise BadInput(f"--set {overrides[0]}: there is no SCENARIO to set it in.")
    asked = {"delta": 1e-5} | given
    of_ledger = {name: asked.pop(name) for name in ("budget_epsilon", "export") if name in asked}
    if ledger is not None:
        delta = asked.pop("delta")
        _refuse_beside("--ledger", asked)
        return plan_ledger(ledger, delta, **of_ledger)
    if not given:
        raise BadInput("Give a SCENARIO, --ledger FILE, or --rate, --noise and --steps.")
    if of_ledger:
        raise BadInput(f"--{next(iter(of_ledger)).replace('_', '-')}: name the --ledger it is about.")
    return answer(Question(**asked))


def _of_scenario(scenario: Path, overrides: list[str], given: dict[str, Any]) -> dict[str, Any]:
    from fedsim.planning_scenario import ROWS, plan_scenario

    rows, target = given.pop("table_rows", ROWS), given.pop("target_epsilon", None)
    _refuse_beside("a SCENARIO", given)
    return plan_scenario(scenario, tuple(overrides), rows, target)


def _refuse_beside(what: str, settings: dict[str, Any]) -> None:
    """Raise ``BadInput`` if anything was set that would silently be ignored."""
    spelled = {"noise_multiplier": "noise", "table_rows": "table"}
    for name, value in settings.items():
        option = spelled.get(name, name).replace("_", "-")
        hint = f"; to plan for so many rounds: --set rounds={value}" if (what, name) == ("a SCENARIO", "steps") else ""
        raise BadInput(f"--{option} {value}: has nothing to do with {what}; leave one of them out{hint}.")


def _show(result: dict[str, Any], as_json: bool) -> None:
    from fedsim.console import as_lines

    # JSON has no infinity: the string "inf" stands for it, as in a run's summary.
    plain = json.loads(json.dumps(result), parse_constant=lambda name: {"Infinity": "inf"}[name])
    print(json.dumps(plain, indent=2) if as_json else as_lines(result))
