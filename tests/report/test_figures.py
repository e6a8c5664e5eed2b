"""The figures: nothing empty is drawn, everything is labelled, and the drawing is always the same."""

import re
from typing import Any

import pytest

from fedsim.report import figures
from fedsim.report.canvas import BLUE, Panel, draw, embeddable
from fedsim.report.population_figures import epsilon_clients_panel, labels_panel, participations_panel, sizes_panel

from .example_runs import CLIENT, EXAMPLE, clients, rounds


def drawn(panel: Panel | None) -> str:
    assert panel is not None
    return panel.svg


def all_panels() -> dict[str, Panel | None]:
    rows, people = rounds(30), clients()
    accuracy, loss = figures.metric_panels(rows)
    return {
        "accuracy": accuracy,
        "loss": loss,
        "epsilon": figures.epsilon_panel(rows, [EXAMPLE, CLIENT]),
        "epsilon by client": epsilon_clients_panel(people),
        "sizes": sizes_panel(people),
        "participations": participations_panel(people),
        "labels": labels_panel(people),
        "bytes": figures.bytes_panel(rows),
        "seconds": figures.seconds_panel(rows),
    }


def test_every_axis_is_labelled_with_its_unit_and_every_figure_can_be_read_aloud() -> None:
    for name, panel in all_panels().items():
        svg = drawn(panel)
        texts = re.findall(r"<text [^>]*>([^<]*)</text>", svg)
        assert sum(bool(re.fullmatch(r".+ \(.+\)", text)) for text in texts) >= 2, name
        label = re.search(r'role="img" aria-label="([^"]+)"><title>', svg)
        assert label is not None, name
        assert panel is not None
        assert panel.title in label[1]
        assert panel.caption.endswith("."), name


def test_metrics_other_than_accuracy_are_drawn_and_known_columns_are_not() -> None:
    rows = [{"round": 1, "seconds": 1.0, "mse": 0.5, "loss": None, "note": "text", "stopped": False}]
    assert [panel.title for panel in figures.metric_panels(rows)] == ["MSE over the rounds"]


def test_captions_tell_the_course_in_words() -> None:
    accuracy = figures.metric_panels(rounds(30))[0]
    assert accuracy.caption == "Accuracy on the test records: from 20.2% after round 1 to 93.2% after round 30."
    assert "the only one evaluated" in figures.metric_panels(rounds(1))[0].caption


@pytest.mark.parametrize(
    "rows", [[], [{"round": 1}], [{"round": 1, "loss": "inf", "epsilon_example": "inf", "seconds": None}]]
)
def test_rounds_without_data_draw_nothing(rows: list[dict[str, Any]]) -> None:
    assert figures.metric_panels(rows) == []
    assert figures.epsilon_panel(rows, [EXAMPLE]) is None
    assert figures.bytes_panel(rows) is None
    assert figures.seconds_panel(rows) is None


@pytest.mark.parametrize(
    "bins",
    [
        None,
        {},
        {"edges": [], "counts": []},
        {"edges": [0, 1], "counts": [0]},
        {"edges": [0, "inf"], "counts": [3]},
        {"edges": [0, 1], "counts": [1, 2]},
    ],
)
def test_histograms_without_data_are_not_drawn(bins: Any) -> None:
    assert epsilon_clients_panel({"epsilon_example": bins}) is None
    assert sizes_panel({"sizes": bins}) is None
    assert participations_panel({"participations": bins}) is None


def test_clients_that_all_hold_the_same_are_drawn() -> None:
    assert sizes_panel({"sizes": {"edges": [70, 70], "counts": [8], "min": 70, "median": 70, "max": 70}}) is not None


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {},
        {"classes": ["a"], "clients": [0], "counts": [[0]]},
        {"classes": ["a"], "clients": [0], "counts": [[1, 2]]},
    ],
)
def test_label_counts_without_data_are_not_drawn(labels: Any) -> None:
    assert labels_panel({"labels": labels}) is None


def test_class_names_are_text_and_neither_markup_nor_mathematics() -> None:
    labels = {"classes": ["<b>$x$</b>", "数字", "a" * 99], "clients": [0], "counts": [[1, 2, 3]]}
    svg = drawn(labels_panel({"clients": 1, "labels": labels}))
    assert "&lt;b&gt;$x$&lt;/b&gt;" in svg
    assert "a" * 99 not in svg


def test_more_clients_than_fit_are_counted_in_the_caption() -> None:
    panel = labels_panel(clients(3400))
    assert panel is not None
    assert "50 of 3,400 clients are shown" in panel.caption


def test_the_limits_are_drawn_once_each() -> None:
    both = [EXAMPLE | {"budget": 4.0}]
    svg = drawn(figures.epsilon_panel(rounds(3, units=("example",)), both))
    assert "target, one record" in svg
    assert "budget, one record" not in svg


def test_thinning_keeps_the_ends_and_the_size_down() -> None:
    points = [(t, float(t)) for t in range(1, 5001)]
    kept = figures.thin(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert len(kept) <= figures.MOST_POINTS + 1
    assert figures.thin(points[:300]) == points[:300]


def test_a_users_own_matplotlib_settings_neither_change_a_figure_nor_are_changed() -> None:
    import matplotlib

    plain = drawn(figures.seconds_panel(rounds(5)))
    with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert drawn(figures.seconds_panel(rounds(5))) == plain
        assert dict(matplotlib.rcParams) == before


def test_an_embedded_figure_keeps_its_references_and_loses_its_prolog() -> None:
    panel = draw(
        "key", "Title", 'Said "so" & done.', lambda figure, axes: [axes.plot([1, 2], color=BLUE, marker="o")][0]
    )
    ids = set(re.findall(r' id="([^"]*)"', panel.svg))
    references = set(re.findall(r'(?:url\(|href=")#([^")]*)', panel.svg))
    assert references <= ids
    assert all(name.startswith("key-") for name in ids)
    assert panel.svg.startswith("<svg ")
    assert "&quot;so&quot; &amp; done." in panel.svg
    assert not re.search(r"<metadata|<style|<!|<\?|purl\.org|DejaVu", panel.svg)


def test_embedding_replaces_only_the_outer_element() -> None:
    svg = embeddable('<?xml?><svg width="1pt" viewBox="0 0 1 1"><g id="a"/><use href="#a"/></svg>', "k", "L")
    assert svg.endswith('role="img" aria-label="L"><title>L</title><g id="k-a"/><use href="#k-a"/></svg>')
    assert 'viewBox="0 0 1 1"' in svg
    assert "width" not in svg
