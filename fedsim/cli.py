"""The command line: every command is a thin shell over a public function."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedsim import cli_compare, cli_data, cli_deploy, cli_export, cli_plan, cli_sweep
from fedsim.errors import BadInput, FedsimError
from fedsim.interrupts import terminated_like_interrupted
from fedsim.streams import reader_stopped, written_out
from fedsim.versions import check_versions

if TYPE_CHECKING:
    from fedsim.result import Result
    from fedsim.scenario import Scenario

app = typer.Typer(
    help="Privacy-preserving federated learning: simulate it, and know exactly what privacy was spent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_data.app, name="data")
app.command()(cli_compare.compare)
app.command()(cli_export.export)
app.command(cls=cli_plan.PlanCommand)(cli_plan.plan)
app.add_typer(cli_deploy.app, name="deploy")
app.command()(cli_sweep.sweep)

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
    engine: Annotated[str | None, typer.Option(help="Where clients live: inprocess or deployment.")] = None,
    connection: Annotated[str | None, typer.Option(help="With deployment: the SuperLink's name in Flower.")] = None,
    go_on: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out if it was stopped.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a scenario: train, account, write the record and the report."""
    import fedsim
    from fedsim.console import watch

    chosen = [f'engine.kind="{engine}"'] if engine else []
    chosen += [f'engine.deployment.connection="{connection}"'] if connection else []
    loaded = fedsim.load_scenario(scenario, [*chosen, *(overrides or ())])
    if go_on and out is None:
        raise BadInput("--resume: name the run directory to go on with by --out.")
    with watch(loaded.rounds, quiet or as_json) as display:
        if go_on and out is not None and out.exists():
            _refuse_another(loaded, out)
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
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's directory, or a sweep's.")],
    format: Annotated[str, typer.Option(help="html, md or pdf.")] = "html",
    debug: Debug = False,
) -> None:
    """Rebuild the report of a run, or of a sweep, from its record alone."""
    import fedsim

    try:
        print(fedsim.build_report(run, format))
    except FileNotFoundError as error:
        raise BadInput(f"{run} has no summary.json: not finished? Go on with: fedsim resume {run}") from error
    except ValueError as error:
        raise BadInput(f"The record cannot be read: {error}.") from error


@app.command()
def check(scenario: ScenarioFile, overrides: Overrides = None, debug: Debug = False) -> None:
    """Check a scenario whole: the file, its data, model and privacy settings; or a sweep. Nothing is written."""
    from fedsim.loading import load_scenario
    from fedsim.sweeps.settings import is_sweep

    if is_sweep(scenario):
        from fedsim.sweeps.preparing import check_sweep

        print(check_sweep(scenario, overrides or ()))
        return
    from fedsim.federation import build_federation
    from fedsim.folds import limit_lines

    federation = build_federation(load_scenario(scenario, overrides or ()))
    print(
        f"{scenario}: good. {len(federation.population)} clients, {int(federation.population.sizes.sum())} training "
        f"records, {federation.start.numel()} parameters, trainer {federation.trainer_name} "
        f"({federation.trainer_reason}), digest {federation.scenario.digest}."
    )
    for note in federation.holdings.notes:
        print(f"note: {note}")
    print("".join(f"{line}\n" for line in limit_lines(federation)), end="")


@app.command()
def describe(
    scenario: ScenarioFile,
    out: Annotated[Path | None, typer.Option(help="Write the plots to this file (.html or .png).")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Describe a scenario's population: sizes, label skew, what is held out. Nothing is written but --out."""
    import fedsim
    from fedsim.describing import as_text
    from fedsim.report import write_population

    description = fedsim.describe(fedsim.load_scenario(scenario, overrides or ()))
    if out is not None:
        write_population(description, out)
    print(json.dumps(description, indent=2) if as_json else as_text(description))


@app.command(name="list")
def list_(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="As model.lstm, a section, or sweep.")] = None,
    debug: Debug = False,
) -> None:
    """List what a scenario can name: data sources, partitions, models, algorithms; of a NAME its settings.

    fedsim list sweep tells what a sweep file says.
    """
    from fedsim.listing import entry_text, tables_text

    print(tables_text() if name is None else entry_text(name))


@app.command()
def schema(
    sweep: Annotated[bool, typer.Option("--sweep", help="Of sweep files instead.")] = False,
) -> None:
    """Print the JSON schema of scenario files, for editors."""
    from pydantic import TypeAdapter

    from fedsim.schema import adapter
    from fedsim.sweeps.settings import SweepFile

    print(json.dumps((TypeAdapter(SweepFile) if sweep else adapter()).json_schema(), indent=2))


def _refuse_another(scenario: Scenario, run: Path) -> None:
    """Raise ``BadInput`` when the run was started from another scenario: going on would silently ignore this one."""
    import fedsim
    from fedsim.federation import pinned

    scenario, file = pinned(scenario), run / "scenario.toml"
    if file.exists() and (started := fedsim.load_scenario(file)).digest != scenario.digest:
        raise BadInput(
            f"{run} is a run of another scenario ({started.name}, digest {started.digest}; this one is "
            f"{scenario.name}, digest {scenario.digest}). Name another --out, or go on with: fedsim resume {run}"
        )


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


INTERRUPTED = 130


def main() -> None:
    """Entry point: one paragraph on standard error for what a person can mend, a traceback only with --debug."""
    with written_out(), terminated_like_interrupted():
        _run_command("--debug" in sys.argv)


def _run_command(debug: bool) -> None:
    try:
        _check_folder()
        check_versions()
        # Outside its standalone mode, click returns the exit code of an interrupt or of --help instead of raising.
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            _fail("Stopped.", INTERRUPTED, debug)
    except FedsimError as error:
        _fail(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        _fail("Stopped.", INTERRUPTED, debug)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_stopped():
            raise
        if type(error).__module__.startswith("click") or isinstance(error, typer.BadParameter):
            shown = error.format_message() if hasattr(error, "format_message") else str(error)
            _fail(shown, 2, debug)
        _fail(_unexpected(error), 1, debug)


def _check_folder() -> None:
    """Libraries end the whole process, without a word that helps, where the folder they start in was removed."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise BadInput("The folder that this was started in does not exist any more; change to another one.") from error


def _unexpected(error: Exception) -> str:
    from fedsim.memory import ADVICE, in_words, ran_out

    if ran_out(error):
        advice = f"{ADVICE} Less data takes less, too. A run that had begun goes on with: fedsim resume RUN"
        return f"Out of memory ({in_words(error)}). {advice}"
    return f"Something unexpected went wrong ({type(error).__name__}): {error}. Run again with --debug."


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(message, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
