"""What the report says about the final model: every metric, the classes one by one, and pictures."""

import base64
import io
import re
from typing import Any

import pytest

from fedsim.report import build_report, figures
from fedsim.report.inputs import RunRecord
from fedsim.report.metrics import metric_text, metric_title
from fedsim.report.quality import class_rows, metric_rows, pictures_panel

from .example_runs import EXAMPLE, MakeRun, clients, summary
from .test_report import Page

CLASSES = [{"class": f"digit {n}", "records": 30 + n, "precision": 0.9, "recall": 0.8, "f1": 0.8471} for n in range(25)]
TASKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "classification": ({"loss": 0.2, "accuracy": 0.9, "macro_f1": 0.88, "auroc": 0.95}, "accuracy", "90.0%"),
    "regression": ({"loss": 2.5, "mse": 2.5, "mae": 1.25, "r2": 0.75}, "r2", "0.75"),
    "next_character": ({"loss": 2.1, "accuracy": 0.4, "perplexity": 8.2}, "accuracy", "40.0%"),
    "reconstruction": ({"loss": 0.01, "mse": 0.01, "psnr": 20.0}, "psnr", "20 dB"),
}


def run_of(make_run: MakeRun, task: str, **changes: Any) -> Page:
    metrics, main, _ = TASKS[task]
    found = {"metrics": metrics, "task": task, "main_metric": main} | changes
    rows = [{"round": number} | found["metrics"] for number in (1, 2)]
    return Page(build_report(make_run(summary=summary(2, [EXAMPLE], **found), rounds=rows, clients={})))


@pytest.mark.parametrize("task", TASKS)
def test_the_first_tile_is_the_tasks_main_metric_and_every_metric_is_listed_and_drawn(
    make_run: MakeRun, task: str
) -> None:
    metrics, main, value = TASKS[task]
    page = run_of(make_run, task)
    tiles = page.text[page.text.index("more private.") : page.text.index("Clients")]
    assert metric_title(main) in tiles
    assert value in tiles
    for name, number in metrics.items():
        assert f"{metric_title(name)} over the rounds" in page.text
        assert f"{metric_title(name)} {metric_text(name, number)}" in page.text


def test_a_share_of_characters_is_not_called_one_of_records(make_run: MakeRun) -> None:
    page = run_of(make_run, "next_character")
    assert "gives the right answer on 40.0% of the characters of 360 test records." in page.text
    assert "Accuracy (% of characters of the test records)" in page.source
    assert "% of test records" not in page.source
    assert "% of test records" in run_of(make_run, "classification").source


@pytest.mark.parametrize("value", [None, "inf", "-inf"])
def test_what_is_not_defined_or_infinite_is_said_and_another_metric_comes_first(make_run: MakeRun, value: Any) -> None:
    metrics = TASKS["regression"][0] | {"r2": value}
    page = run_of(make_run, "regression", metrics=metrics)
    assert "reaches this value of “MSE”: 2.5" in page.text
    assert f"R² {({'inf': '∞', '-inf': '-∞', None: 'not defined'})[value]}" in page.text
    assert "R² over the rounds" not in page.text
    assert not re.search(r"\b(None|nan|null)\b", page.text)


def test_nothing_measured_is_no_table() -> None:
    assert metric_rows({}) == []
    assert class_rows({"per_class": None}) == []


def test_the_first_twenty_classes_are_a_table(make_run: MakeRun) -> None:
    page = run_of(make_run, "classification", per_class=CLASSES)
    assert "Class by class" in page.text
    assert "digit 0 30 90.0% 80.0% 84.7%" in page.text
    assert "digit 19" in page.text
    assert "digit 20" not in page.text
    assert "The first 20 of 25 classes are shown." in page.text
    assert "classes are shown" not in run_of(make_run, "classification", per_class=CLASSES[:20]).text
    assert "Class by class" not in run_of(make_run, "regression").text


def test_scores_of_a_class_that_does_not_occur_are_not_defined(make_run: MakeRun) -> None:
    row = {"class": "<b>ghost</b>", "records": 0, "precision": None, "recall": None, "f1": None}
    page = run_of(make_run, "classification", per_class=[row])
    assert "0 not defined not defined not defined" in page.text
    assert page.count("b") == 0


def test_a_population_without_classes_has_no_label_figure(make_run: MakeRun) -> None:
    people = clients() | {"labels": None}
    page = Page(build_report(make_run(clients=people, rounds=[])))
    assert "Which classes the clients hold" not in page.text
    assert "How much the clients hold" in page.text


def picture(colours: int, shade: int) -> list[Any]:
    """Two images of 2 by 3 pixels."""
    return [[[[shade + image] * colours for _ in range(3)] for _ in range(2)] for image in range(2)]


def record_with(pictures: Any) -> RunRecord:
    return RunRecord("", {}, [], {}, summary(1, []), pictures)


@pytest.mark.parametrize("colours", [1, 3])
def test_pictures_show_inputs_above_reconstructions(colours: int) -> None:
    from matplotlib.image import imread

    panel = pictures_panel(record_with({"inputs": picture(colours, 10), "reconstructions": picture(colours, 200)}))
    assert panel is not None
    assert "2 images of the held-out test records" in panel.caption
    encoded = re.search(r'href="data:image/png;base64,([^"]+)"', panel.svg)
    assert encoded is not None
    found = (255 * imread(io.BytesIO(base64.b64decode(encoded[1])))[..., :3]).round().astype(int)
    line = [[10] * 3, [10] * 3, [10] * 3, [255] * 3, [11] * 3, [11] * 3, [11] * 3]
    below = [[200] * 3, [200] * 3, [200] * 3, [255] * 3, [201] * 3, [201] * 3, [201] * 3]
    shown = found if found[0, 0, 0] == 10 else found[::-1]
    assert shown.tolist() == [line, line, [[255] * 3] * 7, below, below]


@pytest.mark.parametrize(
    "pictures",
    [
        {},
        {"inputs": [], "reconstructions": []},
        {"inputs": picture(1, 0), "reconstructions": picture(1, 0)[:1]},
        {"inputs": picture(2, 0), "reconstructions": picture(2, 0)},
        {"inputs": picture(1, 0), "reconstructions": [[[[0]]], [[[0]]]]},
    ],
)
def test_pictures_that_are_none_are_not_drawn(pictures: Any) -> None:
    assert pictures_panel(record_with(pictures)) is None


def test_pictures_are_drawn_again_from_the_run_directory(make_run: MakeRun) -> None:
    run = make_run(rounds=[], clients={})
    assert "Test images and their reconstructions" not in Page(build_report(run)).text
    (run / "pictures.json").write_text(
        '{"inputs": [[[[0], [255]]]], "reconstructions": [[[[9], [99]]]]}', encoding="utf-8"
    )
    page = Page(build_report(run))
    assert "Test images and their reconstructions" in page.text
    assert page.count("figure") == page.count("figcaption") == page.count("svg")


def test_metrics_have_their_units() -> None:
    panels = figures.metric_panels([{"round": 1, "psnr": 20.0, "loss": 0.1, "mse": 0.5}])
    texts = " ".join(panel.svg for panel in panels)
    for label in ("PSNR (dB)", "Loss (mean per test record)", "MSE (in the metric's own unit)"):
        assert label in texts.replace("&#x27;", "'")


@pytest.mark.parametrize(
    ("name", "title", "text"),
    [
        ("accuracy_p10", "Accuracy that nine of ten clients reach", "50.0%"),
        ("mse_p90", "MSE that nine of ten clients do not exceed", "0.5"),
        ("macro_f1_mean", "Macro-F1, mean over clients", "0.5"),
        ("psnr_worst", "PSNR, worst client", "0.5 dB"),
        ("balanced_accuracy_unseen", "Balanced accuracy on clients that never trained", "50.0%"),
    ],
)
def test_metrics_over_clients_are_named_in_words(name: str, title: str, text: str) -> None:
    assert metric_rows({"metrics": {name: 0.5}}) == [(title, text)]
    (panel,) = figures.metric_panels([{"round": 1, name: 0.5}])
    assert panel.caption.startswith(title)
    assert ("on the test records" in panel.caption) == (not name.endswith("unseen"))


def test_clients_are_a_table_by_name(make_run: MakeRun) -> None:
    rows = [
        {"client": "Hamlet <i>", "test_records": 12, "value": 0.25},
        {"client": "Ophelia", "test_records": 3, "value": None},
        {"client": "Osric", "test_records": 0, "value": None},
    ]
    people = clients(3) | {"metrics_by_client": {"metric": "accuracy", "clients": rows}}
    people["labels"] |= {"clients": [row["client"] for row in rows]}
    page = Page(build_report(make_run(clients=people)))
    assert "Client Test records Accuracy" in page.text
    assert "Hamlet <i> 12 25.0%" in page.text
    assert "Ophelia 3 not defined" in page.text
    assert "Osric 0 not tested" in page.text
    assert page.count("i") == 0
    assert "Client (name)" in page.source
    plain_page = Page(build_report(make_run(clients=clients(3) | {"metrics_by_client": None})))
    assert "Client by client" not in plain_page.text
    assert "Client (id)" in plain_page.source
