"""A run's report as plain blocks of text, from which Markdown and PDF are made: every privacy statement is whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fedsim.report import attack, folds, headline, plain, quality
from fedsim.report.cards import Card, cards
from fedsim.report.inputs import Json, RunRecord

Kind = Literal["heading", "paragraph", "bullets", "table", "code"]
MOST_ROUNDS = 40


@dataclass(frozen=True)
class Block:
    """A heading of a ``level``, a paragraph, bullets, a table (its first line is its head) or literal text."""

    kind: Kind
    lines: list[list[str]]
    level: int = 2


def document(record: RunRecord) -> Iterator[Block]:
    """The report from first to last."""
    summary = record.summary
    yield _heading(f"Privacy report: {summary.get('scenario')}", 1)
    yield _paragraph(headline.paragraph(record))
    yield from _notices(summary)
    yield _heading("The privacy statement")
    for card in cards(summary.get("privacy") or [], record.rounds):
        yield from _card(card)
    yield _heading("Released outside these guarantees", 3)
    outside = [str(line) for line in summary.get("outside") or []]
    yield _bullets(outside) if outside else _paragraph("The record lists nothing that was released outside them.")
    yield from _results(record)
    if notes := summary.get("data_notes"):
        yield _heading("How the data was read")
        yield _bullets([str(note) for note in notes])
    yield _heading("The scenario file")
    yield _paragraph(f"Digest: {summary.get('digest')}")
    yield Block("code", [[line] for line in record.scenario.splitlines()])


def _heading(text: str, level: int = 2) -> Block:
    return Block("heading", [[text]], level)


def _paragraph(text: str) -> Block:
    return Block("paragraph", [[text]])


def _bullets(lines: list[str]) -> Block:
    return Block("bullets", [[line] for line in lines])


def _notices(summary: Json) -> Iterator[Block]:
    status = headline.status(summary)
    if status.early:
        yield _paragraph(f"{status.name}. {status.sentence} The record says: {status.reason or 'nothing more'}.")
    if summary.get("projected"):
        yield _paragraph(
            "Projected. The noise of this simulation was rescaled to a larger, hypothetical cohort. The guarantees "
            "below describe that hypothetical deployment, not this run."
        )
    for each in summary.get("tracking") or []:
        if "warning" in each:
            yield _paragraph(f"Warning: {each['warning']}")


def _card(card: Card) -> Iterator[Block]:
    """Everything that the page says of one unit."""
    yield _heading(card.title, 3)
    yield _paragraph(f"{card.figure}; {card.verdict}.")
    if card.alarms:
        yield _paragraph("Warnings:")
        yield _bullets(card.alarms)
    for name, sentences in card.sections:
        yield _heading(name, 4)
        yield _paragraph(" ".join(sentences))
    if card.rows:
        yield _heading("For the record", 4)
        rows = [[f"{row.label} ({row.key})", row.value, row.hint] for row in card.rows]
        yield Block("table", [["Field", "Value", "What it is"], *rows])


def _results(record: RunRecord) -> Iterator[Block]:
    summary = record.summary
    if metrics := quality.metric_rows(summary):
        yield _heading("The final model on the test records")
        yield Block("table", [["Metric", "Value"], *(list(row) for row in metrics)])
    if parts := folds.rows(summary):
        yield _heading("The folds")
        each = [[str(cell) for cell in (row.name, row.records, row.metric, row.loss, row.status)] for row in parts]
        yield Block("table", [list(folds.columns(summary)), *each])
    if facts := attack.facts(summary):
        yield _heading("The attack")
        yield Block("table", [["What", "Value"], *(list(map(str, row)) for row in facts)])
    if record.rounds:
        yield _heading("The rounds")
        yield _rounds(record.rounds)


def _rounds(rounds: list[Json]) -> Block:
    """What every column of the record says at the ends of some rounds, the first and the last among them."""
    step = -(-len(rounds) // MOST_ROUNDS)
    shown = rounds[:: step or 1]
    shown += [] if shown[-1] is rounds[-1] else [rounds[-1]]
    names = [name for name in rounds[0] if any(row.get(name) is not None for row in rounds)]
    return Block("table", [names, *([_cell(row.get(name)) for name in names] for row in shown)])


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else plain.exact(value)
