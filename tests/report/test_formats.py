"""The report as Markdown and PDF: nothing that the page says of privacy is missing, whatever the record holds."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedsim.cli import main
from fedsim.errors import BadInput
from fedsim.report import build_report, pdf
from fedsim.report.cards import cards
from fedsim.report.inputs import read_record

from .example_runs import MakeRun, variants


def said(run: Path) -> list[str]:
    """Every sentence and every recorded field of the privacy statement."""
    record = read_record(run)
    found = [str(line) for line in record.summary.get("outside") or []]
    for card in cards(record.summary["privacy"], record.rounds):
        found += [card.title, card.figure, card.verdict, *card.alarms]
        found += [sentence for name, sentences in card.sections for sentence in (name, *sentences)]
        found += [text for row in card.rows for text in (row.label, row.value, row.hint)]
    return found


def squeezed(text: str) -> str:
    return re.sub(r"[\s•]+", "", text)


@pytest.mark.parametrize("variant", sorted(variants()))
def test_markdown_holds_every_privacy_statement_whole(make_run: MakeRun, variant: str):
    run = make_run(variant)
    text = build_report(run, "md").read_text()
    plain = squeezed(re.sub(r"\\([\\`*_\[\]<>|#&])", r"\1", text))
    for sentence in said(run):
        assert squeezed(sentence) in plain, sentence
    assert "<script" not in text.partition("```toml")[0]


def test_markdown_tables_keep_their_columns(make_run: MakeRun):
    run = make_run(
        "both",
    )
    text = build_report(run, "md").read_text().partition("```toml")[0]
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.M)
    assert len(tables) == 4  # two units, the metrics, the rounds
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    rounds = tables[-1].splitlines()
    assert [line.split("|")[1].strip() for line in (rounds[2], rounds[-1])] == ["1", "30"]


@pytest.mark.parametrize("variant", ["both", "none", "folds"])
def test_pdf_prints_every_privacy_statement_whole(make_run: MakeRun, variant: str, monkeypatch: pytest.MonkeyPatch):
    printed, print_ = [], pdf._print

    def spy(figure: object, lines: list[tuple[str, float, bool]]) -> None:
        assert sum(max(1, size / pdf.POINTS) for _, size, _ in lines) <= pdf.LINES
        assert all(len(text) * size <= pdf.COLUMNS * pdf.POINTS + size for text, size, _ in lines)
        printed.extend(text for text, *_ in lines)
        print_(figure, lines)

    monkeypatch.setattr(pdf, "_print", spy)
    run = make_run(variant)
    file = build_report(run, "pdf")
    plain = squeezed(" ".join(printed))
    for sentence in said(run):
        assert squeezed(sentence) in plain, sentence
    assert file.read_bytes().startswith(b"%PDF-")
    if shutil.which("pdftotext"):
        done = subprocess.run(["pdftotext", "-layout", str(file), "-"], capture_output=True, text=True, check=True)
        assert squeezed(said(run)[-1]) in squeezed(done.stdout)


def test_the_page_says_the_same(make_run: MakeRun):
    run = make_run("both")
    page = squeezed(html.unescape(re.sub(r"<[^>]+>", " ", build_report(run).read_text())))
    assert all(squeezed(sentence) in page for sentence in said(run))


def test_on_the_command_line(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run = make_run("both")
    monkeypatch.setattr(sys, "argv", ["fedsim", "report", str(run), "--format", "md"])
    main()
    assert capsys.readouterr().out.strip() == str(run / "report.md")
    with pytest.raises(BadInput, match="--format docx: must be one of html, md, pdf"):
        build_report(run, "docx")
