"""The page: what the template is given, and the file that it becomes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.durable import write_whole, writing
from fedsim.errors import BadInput
from fedsim.report import (
    attack,
    communication,
    cost_figures,
    figures,
    folds,
    headline,
    participation,
    personal,
    plain,
    population_figures,
    quality,
)
from fedsim.report.canvas import Panel, figure_of
from fedsim.report.cards import cards
from fedsim.report.inputs import Json, RunRecord, read_record
from fedsim.report.markdown import markdown
from fedsim.report.metrics import scored
from fedsim.report.pdf import pdf

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
Facts = list[tuple[str, str]]


FORMATS = ("html", "md", "pdf")


def build_report(run_directory: Path, format: str = "html") -> Path:
    """Write `report.html` (or .md, .pdf) from the record in `run_directory` alone, atomically, and return its path.

    Of a sweep's directory its `frontier.html`. The same record gives the same bytes, in a PDF the same pages. Raises
    FileNotFoundError where there is no `summary.json`, ValueError where a file of the record is damaged, `BadInput`
    for another format, and `FedsimError` where it cannot be written.
    """
    if format not in FORMATS:
        raise BadInput(f"--format {format}: must be one of {', '.join(FORMATS)}.")
    run_directory = Path(run_directory)
    if (run_directory / "trials.jsonl").exists() or (run_directory / "table.json").exists():
        return _of_sweep(run_directory, format)
    content = _content(read_record(run_directory), format)
    report = run_directory / f"report.{format}"
    with writing(str(report)):
        write_whole(report, content)
    return report


def _of_sweep(directory: Path, format: str) -> Path:
    from fedsim.report.frontier import build_frontier

    if format != "html":
        raise BadInput(f"--format {format}: {directory} is a sweep, whose report is written as html.")
    return build_frontier(directory)


def _content(record: RunRecord, format: str) -> bytes:
    if format == "html":
        return render(record).encode()
    if format == "md":
        return markdown(record).encode()
    attacked = attack.panels(record.summary, record.rounds)
    return pdf(
        record, [*_present(_course(record)), *attacked, *_present(_population(record)), *_present(_cost(record))]
    )


def course_figure(run_directory: Path) -> "Figure":
    """The figures of a run over its rounds, one below the other, as one Matplotlib figure."""
    record = read_record(Path(run_directory))
    return figure_of([*_present(_course(record)), *_present(_cost(record))])


def render(record: RunRecord) -> str:
    """The report as one HTML document; everything from the record is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.j2").render(style=style, markup=Markup, **context(record))


def context(record: RunRecord) -> dict[str, Any]:
    """Everything that the template prints."""
    summary = record.summary
    statement = cards(summary.get("privacy") or [], record.rounds)
    warnings = sum(len(card.alarms) for card in statement)
    return {
        "summary": summary,
        "scenario": record.scenario,
        "status": headline.status(summary),
        "paragraph": headline.paragraph(record),
        "tiles": headline.tiles(record),
        "cards": statement,
        "warnings": plain.plural(warnings, "warning") if warnings else "",
        "outside": [str(sentence) for sentence in summary.get("outside") or []],
        "folds": folds.rows(summary),
        "fold_columns": folds.columns(summary),
        "course": _present(_course(record)),
        "metrics": quality.metric_rows(summary),
        "classes": quality.class_rows(summary),
        "class_note": quality.class_note(summary),
        "attack": attack.facts(summary),
        "attack_course": attack.panels(summary, record.rounds),
        "population": _present(_population(record)),
        "clients": quality.client_rows(record.clients),
        "client_columns": quality.client_columns(record.clients),
        "cost": _present(_cost(record)),
        "people": participation.people(record),
        "undelivered": participation.notice(summary),
        "data_notes": [str(sentence) for sentence in summary.get("data_notes") or []],
        "costs": _costs(summary),
        "transfer": _transfer(summary.get("transfer") or {}),
        "environment": _environment(record.environment),
    }


def _course(record: RunRecord) -> list[Panel | None]:
    rounds, privacy = record.rounds, record.summary.get("privacy") or []
    return [
        *figures.metric_panels(rounds, scored(record.summary)),
        quality.pictures_panel(record),
        figures.epsilon_panel(rounds, privacy),
        population_figures.epsilon_clients_panel(record.clients),
        personal.gains_panel(record.clients),
    ]


def _population(record: RunRecord) -> list[Panel | None]:
    draw = (population_figures.sizes_panel, population_figures.participations_panel, population_figures.labels_panel)
    return [panel(record.clients) for panel in draw]


def _cost(record: RunRecord) -> list[Panel | None]:
    rounds = record.rounds
    return [*cost_figures.cost_panels(record), figures.bytes_panel(rounds), figures.seconds_panel(rounds)]


def _present(panels: list[Panel | None]) -> list[Panel]:
    return [panel for panel in panels if panel is not None]


def _costs(summary: Json) -> Facts:
    seconds, sent = summary.get("seconds") or {}, summary.get("bytes") or {}
    trainer, engine, device = (plain.exact(summary.get(key)) for key in ("trainer", "engine", "device"))
    reason = f": {summary['trainer_reason']}" if summary.get("trainer_reason") else ""
    return [
        ("Time in all", plain.duration(seconds.get("total"))),
        ("of that, preparation", plain.duration(seconds.get("setup"))),
        ("A round (median)", plain.duration(seconds.get("round_median"))),
        *([("Simulated time", plain.duration(seconds["simulated"]))] if "simulated" in seconds else []),
        *participation.device_facts(summary),
        ("Sent by the clients", plain.size(sent.get("up"))),
        ("Sent to the clients", plain.size(sent.get("down"))),
        *communication.facts(summary.get("communication") or {}),
        ("Memory at the peak", plain.size((summary.get("memory") or {}).get("peak_bytes"))),
        ("Where the clients ran", f"{engine} engine, on {device}"),
        ("How they were trained", f"{trainer} trainer{reason}"),
    ]


def _transfer(transfer: Json) -> Facts:
    """Where the model's weights start, and which of them do not train."""
    labels = {
        "initial": "Starts from the file",
        "initial_sha256": "SHA-256 of that file",
        "initial_skip": "Not taken from it",
        "freeze": "Frozen (not trained)",
        "lora": "Low-rank updates (LoRA)",
    }
    lora = transfer.get("lora")
    if isinstance(lora, dict) and lora.get("alpha") is None:
        transfer = transfer | {"lora": lora | {"alpha": "as the rank"}}
    return [(label, plain.exact(transfer[key])) for key, label in labels.items() if transfer.get(key) is not None]


def _environment(environment: Json) -> Facts:
    """The environment flattened: a nested table becomes one row per entry."""
    facts: Facts = []
    for name, value in environment.items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        facts += [(f"{name} {inner}".strip(), plain.exact(part)) for inner, part in nested]
    return facts
