"""The whole page, for every kind of run: self-contained, complete, safe, small and always the same."""

import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedsim.errors import FedsimError
from fedsim.report import build_report, plain

from .example_runs import (
    CLIENT,
    DATA_NOTES,
    ENVIRONMENT,
    EXAMPLE,
    OUTSIDE,
    SCENARIO,
    MakeRun,
    rounds,
    summary,
    variants,
    write_run,
)

VARIANTS = list(variants())
NAMESPACES = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")


class Page(HTMLParser):
    """The tags, attributes and visible words of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module", params=VARIANTS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Page:
    run = write_run(tmp_path_factory.mktemp("runs") / request.param, variants()[request.param])
    return Page(build_report(run))


def test_the_page_loads_nothing(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "img", "base", "form"}
    links = [
        value for _, attributes in page.tags for name, value in attributes.items() if name.endswith(("href", "src"))
    ]
    allowed = r"#.*|data:image/png;base64,.*|fold-[0-9]+/report\.html"
    assert all(re.fullmatch(allowed, link, re.DOTALL) for link in links)
    remaining = page.source
    for namespace in NAMESPACES:
        remaining = remaining.replace(f'="{namespace}"', "")
    assert not re.search(r"https?://|@import|@font-face|url\((?!#)", remaining)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


def test_the_page_is_well_formed_and_its_links_lead_somewhere(page: Page) -> None:
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, attributes in page.tags for value in attributes.values() if value.startswith("#")}
    assert {target for target in targets if not re.fullmatch("[0-9a-f]{6}", target)} <= set(ids)


def test_every_figure_has_a_heading_a_caption_and_a_label(page: Page) -> None:
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(drawings) == page.count("figure") == page.count("figcaption")
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in drawings)


def test_the_page_is_small_and_shows_no_raw_values(page: Page) -> None:
    assert len(page.source.encode()) < 1_000_000
    assert not re.search(r"\b(None|nan|NaN|undefined|Undefined)\b", page.text)


def test_the_scenario_and_the_environment_are_shown_whole_and_escaped(page: Page) -> None:
    assert html.escape(SCENARIO, quote=False).strip() in page.source.replace("&#39;", "'").replace("&#34;", '"')
    assert "<script>" not in page.source
    assert all(value in page.text for value in ENVIRONMENT["packages"].values())  # type: ignore[attr-defined]


def test_both_guarantees_are_printed_whole(make_run: MakeRun) -> None:
    page = Page(build_report(make_run("both")))
    cells = [text.strip() for text in page.texts]
    for entry in (EXAMPLE, CLIENT):
        missing = [key for key, value in entry.items() if value is not None and plain.exact(value) not in cells]
        assert missing == []
    assert all(sentence in cells for sentence in OUTSIDE)
    assert CLIENT["flags"][0] in cells
    assert "1 warning about these numbers" in page.text


def test_the_record_names_a_key_only_where_its_label_does_not(make_run: MakeRun) -> None:
    page = Page(build_report(make_run("both")))
    assert not {"unit", "steps", "flags", "sampling"} & {text.strip() for text in page.texts}
    assert "Epsilon (ε) epsilon" in page.text
    assert "Unit example" in page.text


def test_a_model_that_trains_in_part_is_told_whole_also_without_privacy(make_run: MakeRun) -> None:
    lora = {"rank": 2, "alpha": None, "targets": ["head.*"]}
    transfer = {"initial": "a/model.safetensors", "initial_sha256": "5f" * 32, "freeze": ["features.*"], "lora": lora}
    none = {"unit": "none", "epsilon": "inf", "delta": None}
    changes = {"parameters": 8906, "parameters_total": 13_706, "transfer": transfer}
    text = Page(build_report(make_run("none", summary=summary(30, [none], **changes)))).text
    assert "A model “cnn” with 13,706 parameters, of which 8,906 were trained, was trained in 30 rounds" in text
    assert "Starts from the file a/model.safetensors" in text
    assert f"SHA-256 of that file {'5f' * 32}" in text
    assert "Frozen (not trained) features.*" in text
    assert "Low-rank updates (LoRA) rank 2, alpha as the rank, targets head.*" in text
    whole = Page(build_report(make_run("none", summary=summary(30, [none], parameters_total=20_522)))).text
    assert "with 20,522 parameters was trained" in whole
    assert "What the model starts from" not in whole


def test_how_the_data_was_read_is_told_and_left_out_where_there_is_nothing_to_tell(make_run: MakeRun) -> None:
    told = Page(build_report(make_run("both"))).text
    assert all(note in told for note in DATA_NOTES)
    silent = Page(build_report(make_run("both", summary=summary(30, [EXAMPLE], data_notes=[])))).text
    assert "How the data was read" in told
    assert "How the data was read" not in silent


def test_the_summary_comes_first_and_in_plain_words(make_run: MakeRun) -> None:
    text = Page(build_report(make_run("both"))).text
    start = text.index("A model “cnn”")
    assert (
        start
        < text.index("The privacy statement")
        < text.index("The course of the run")
        < text.index("The scenario file")
    )
    assert "trained in 30 rounds on the data of 20 clients; together they hold 1,437 records." in text
    assert (
        "ε = 3.99 (at δ = 0.0001) for one single record and ε = 9.62 (at δ = 0.00001) for everything one client" in text
    )


def test_without_privacy_the_report_says_so_plainly(make_run: MakeRun) -> None:
    page = Page(build_report(make_run("none")))
    assert "No privacy is guaranteed: ε is infinite." in page.text
    assert "nothing is guaranteed" in page.text
    assert "Released outside any guarantee" in page.text
    assert "Privacy spent over the rounds" not in page.text


def test_an_exhausted_budget_is_announced(make_run: MakeRun) -> None:
    text = Page(build_report(make_run("exhausted"))).text
    assert "The run stopped early, because the privacy budget was used up." in text
    assert "round 13 would have spent epsilon 4.02" in text
    assert "of 30 planned" in text


@pytest.mark.parametrize(
    ("variant", "sentence", "figures"), [("zero", "no round of training was completed", 2), ("one", "in 1 round on", 9)]
)
def test_short_runs_are_reported(make_run: MakeRun, variant: str, sentence: str, figures: int) -> None:
    page = Page(build_report(make_run(variant)))
    assert sentence in page.text
    assert page.count("figure") == figures


def test_a_projected_guarantee_is_announced(make_run: MakeRun) -> None:
    text = Page(build_report(make_run(summary=summary(30, [EXAMPLE], projected=True)))).text
    assert "describe that hypothetical deployment, not this run" in text


def test_text_from_the_record_is_never_markup(make_run: MakeRun) -> None:
    evil = "<img src=x onerror=alert(1)>"
    entry = EXAMPLE | {"adversary": evil, "assumptions": [evil], "flags": [evil], evil: evil}
    changes = summary(30, [entry], scenario=evil, model=evil, outside=[evil], status="odd", status_reason=evil)
    rows = [row | {evil: 0.5} for row in rounds(3)]
    page = Page(build_report(make_run(summary=changes, rounds=rows, environment={evil: evil})))
    assert page.count("img") == 0
    assert evil not in page.source


def test_two_builds_are_the_same_bytes(make_run: MakeRun) -> None:
    first, second = make_run(), make_run()
    expected = build_report(first).read_bytes()
    assert build_report(first).read_bytes() == expected
    command = f"import pathlib, fedsim.report as r; r.build_report(pathlib.Path({str(second)!r}))"
    subprocess.run([sys.executable, "-c", command], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert (second / "report.html").read_bytes() == expected


def test_importing_the_report_is_light() -> None:
    command = (
        "import sys, fedsim; before = set(sys.modules); import fedsim.report; "
        "print([name for name in set(sys.modules) - before if name.split('.')[0] in ('matplotlib', 'jinja2', 'numpy')])"
    )
    result = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "[]"


def test_the_report_is_replaced_whole_or_not_at_all(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("zero")
    (run / "report.html").write_text("the old one")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(FedsimError, match="disk full"):
        build_report(run)
    assert (run / "report.html").read_text() == "the old one"
    assert not list(run.glob("report*.part"))


def test_only_the_summary_is_indispensable(make_run: MakeRun) -> None:
    run = make_run()
    for name in ("scenario.toml", "environment.json", "rounds.jsonl", "clients.json"):
        (run / name).unlink()
    assert Page(build_report(run)).count("figure") == 0
    (run / "summary.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"summary\.json is missing"):
        build_report(run)


def test_a_torn_last_line_is_left_out_and_any_other_damage_is_named(make_run: MakeRun) -> None:
    run = make_run("zero")
    rows = [json.dumps(row) for row in rounds(2)]
    (run / "rounds.jsonl").write_text("\n".join(rows) + "\n" + rows[0][:30])
    assert "after round 2" in Page(build_report(run)).text
    (run / "rounds.jsonl").write_text(rows[0][:30] + "\n" + rows[1] + "\n")
    with pytest.raises(ValueError, match=r"rounds\.jsonl is not valid JSON"):
        build_report(run)
