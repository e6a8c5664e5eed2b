"""The command line: every command is a thin shell over a public function."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedsim.errors import BadInput, FedsimError

if TYPE_CHECKING:
    from fedsim.running import Result

app = typer.Typer(
    help="Privacy-preserving federated learning: simulate it, and know exactly what privacy was spent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SET_HELP = "Set any value of the scenario, e.g. --set privacy.example.target_epsilon=2 (repeatable)."
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help=SET_HELP)]
ScenarioFile = Annotated[Path, typer.Argument(metavar="SCENARIO", help="A scenario file (TOML).")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON alone on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


@app.command()
def run(
    scenario: ScenarioFile,
    out: Annotated[Path | None, typer.Option(help="Run directory; must not exist, unless with --resume.")] = None,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out if it was stopped.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a scenario: train, account, write the record and the report."""
    import fedsim
    from fedsim.console import watch

    loaded = fedsim.load_scenario(scenario, overrides or ())
    with watch(loaded.rounds, quiet or as_json) as display:
        if go_on and out is not None and out.exists():
            result = fedsim.resume(out, display.on_round, display.on_ready)
        else:
            result = fedsim.run(loaded, out, display.on_round, display.on_ready)
    _finish(result, as_json)


@app.command()
def resume(run: RunFolder, as_json: AsJson = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """Go on with a run that was stopped, from its last checkpoint."""
    import fedsim
    from fedsim.console import watch

    file = run / "scenario.toml"
    rounds = fedsim.load_scenario(file).rounds if file.exists() else 0
    with watch(rounds, quiet or as_json) as display:
        result = fedsim.resume(run, display.on_round, display.on_ready)
    _finish(result, as_json)


@app.command()
def report(run: RunFolder, debug: Debug = False) -> None:
    """Rebuild report.html from a run's record alone."""
    import fedsim

    if not (run / "summary.json").exists():
        raise BadInput(f"{run} has no summary.json, so there is nothing to report; is it a finished run?")
    print(fedsim.build_report(run))


@app.command()
def check(scenario: ScenarioFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Check a scenario whole: the file, its data, its model and its privacy settings. Nothing is written."""
    from fedsim.federation import build_federation
    from fedsim.loading import load_scenario

    federation = build_federation(load_scenario(scenario, overrides or ()))
    print(
        f"{scenario}: good. {len(federation.population)} clients, {int(federation.population.sizes.sum())} training "
        f"records, {federation.start.numel()} parameters, trainer {federation.trainer} "
        f"({federation.trainer_reason}), digest {federation.scenario.digest}."
    )


@app.command(name="list")
def list_() -> None:
    """List what a scenario can name: data sources, partitions, models, algorithms, samplings, trainers, optimizers."""
    from fedsim.console import print_tables

    print_tables()


@app.command()
def schema() -> None:
    """Print the JSON schema of scenario files, for editors."""
    from fedsim.loading import adapter

    print(json.dumps(adapter().json_schema(), indent=2))


@app.command()
def plan(
    scenario: Annotated[
        Path | None, typer.Argument(metavar="[SCENARIO]", help="Predict what a scenario spends.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Sampling rate of a step or round.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier.")] = None,
    target_epsilon: Annotated[float | None, typer.Option(help="Find the noise multiplier for this epsilon.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps or rounds.")] = None,
    delta: Annotated[float | None, typer.Option(help="Delta (default 1e-5).")] = None,
    relation: Annotated[str | None, typer.Option(help="add-remove or replace-one.")] = None,
    sampling: Annotated[str, typer.Option(help="poisson, fixed or none.")] = "poisson",
    population: Annotated[int | None, typer.Option(help="Number of members, for --sampling fixed.")] = None,
    cohort: Annotated[int | None, typer.Option(help="Members that take part each time.")] = None,
    ledger: Annotated[Path | None, typer.Option(help="Say what a ledger file has spent.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Privacy before it is spent: epsilon from settings, noise from a target, a scenario's cost, a ledger's balance."""
    from fedsim.planning import Question, answer, plan_ledger, plan_scenario

    if ledger is not None:
        result = plan_ledger(ledger, 1e-5 if delta is None else delta)
    elif scenario is not None:
        result = plan_scenario(scenario, tuple(overrides or ()))
    else:
        for name, value, valid in (
            ("relation", relation or "add-remove", ("add-remove", "replace-one")),
            ("sampling", sampling, ("poisson", "fixed", "none")),
        ):
            if value not in valid:
                raise BadInput(f"--{name} {value}: must be one of {', '.join(valid)}.")
        if steps is None:
            raise BadInput("Give a SCENARIO, --ledger FILE, or at least --steps with --rate and --noise.")
        result = answer(
            Question(
                steps=steps,
                delta=1e-5 if delta is None else delta,
                rate=rate,
                noise_multiplier=noise,
                target_epsilon=target_epsilon,
                relation=relation,  # type: ignore[arg-type]  # checked above
                sampling=sampling,  # type: ignore[arg-type]
                population=population,
                cohort=cohort,
            )
        )
    _show(result, as_json)


def _show(result: dict[str, Any], as_json: bool) -> None:
    from fedsim.console import as_lines
    from fedsim.record import jsonable

    print(json.dumps(jsonable(result), indent=2) if as_json else as_lines(result))


def _finish(result: Result, as_json: bool) -> None:
    from fedsim.console import print_result

    if as_json:
        print(json.dumps(result.summary, indent=2))
    else:
        print_result(result)
    if result.summary["status"] == "interrupted":
        print(f"Stopped. Go on with: fedsim resume {result.directory}", file=sys.stderr)
    elif result.exit_code:
        print(result.summary["status_reason"], file=sys.stderr)
    raise SystemExit(result.exit_code)


def main() -> None:
    """Entry point: one paragraph on standard error for what a person can mend, a traceback only with --debug."""
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=False)
    except FedsimError as error:
        _fail(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail("Stopped.", 130, debug)
    except Exception as error:
        if type(error).__module__.startswith("click") or isinstance(error, typer.BadParameter):
            shown = error.format_message() if hasattr(error, "format_message") else str(error)
            _fail(shown, 2, debug)
        _fail(f"Something unexpected went wrong ({type(error).__name__}): {error}. Run again with --debug.", 1, debug)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
