"""The report of a cross-validation: its headline, and the table of its folds."""

import statistics
from typing import Any

import pytest

from fedsim.report import build_report

from .example_runs import MakeRun, cross_validation
from .test_report import Page


def page_of(make_run: MakeRun, **changes: Any) -> Page:
    people = {"clients": 20, "records": 1437}
    return Page(build_report(make_run(summary=cross_validation(**changes), rounds=[], clients=people)))


def test_the_headline_is_mean_and_deviation_and_talks_of_no_final_model(make_run: MakeRun) -> None:
    accuracies = (0.6, 0.68, 0.74)
    text = page_of(make_run, accuracies=accuracies).text
    mean, spread = statistics.fmean(accuracies), statistics.stdev(accuracies)
    reached = f"accuracy {100 * mean:.1f}% ± {100 * spread:.1f}%"
    assert f"3-fold cross-validation: {reached} (mean and standard deviation over folds)." in text
    assert "was trained 3 times from the start, in 30 rounds each time" in text
    assert f"Accuracy {100 * mean:.1f}% ± {100 * spread:.1f}% over 3 folds" in text
    assert "Folds 3 of 3, 30 rounds planned in each" in text
    assert "final model" not in text
    assert "course of the run" not in text.lower()


def test_every_fold_is_a_row_with_a_link_to_its_report(make_run: MakeRun) -> None:
    page = page_of(make_run)
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [link for link in links if not link.startswith("#")] == [f"fold-{n}/report.html" for n in (1, 2, 3)]
    assert "Fold Test records Accuracy Loss Status" in page.text
    assert "Fold 2 122 68.0% 0.32 Completed" in page.text


def test_folds_that_were_not_finished_do_not_count(make_run: MakeRun) -> None:
    changes = cross_validation((0.6, 0.7, 0.1))
    changes["folds"][2] |= {"status": "interrupted", "rounds": 4, "metrics": {"accuracy": None, "loss": None}}
    text = Page(build_report(make_run(summary=changes | {"status": "interrupted"}, rounds=[], clients={}))).text
    assert "(mean and standard deviation over the 2 folds that were finished)" in text
    assert "in between 4 and 30 rounds each time" in text
    assert "Folds 2 of 3" in text
    assert "Fold 3 123 not defined not defined Interrupted" in text


def test_one_fold_has_no_deviation(make_run: MakeRun) -> None:
    text = page_of(make_run, accuracies=(0.6,)).text
    assert "3-fold cross-validation: accuracy 60.0% (the only fold that was finished)." in text
    assert "was trained once" in text
    assert "60.0% ±" not in text


def test_nothing_measured_is_said(make_run: MakeRun) -> None:
    text = page_of(make_run, metrics={}, metrics_std={}).text
    assert "3-fold cross-validation: its quality was not measured." in text


@pytest.mark.parametrize("directory", ["javascript:alert(1)", "../fold-1", "fold-1/..", "https://x", None])
def test_only_a_folder_of_a_fold_is_linked(make_run: MakeRun, directory: Any) -> None:
    changes = cross_validation()
    changes["folds"][0]["directory"] = directory
    page = Page(build_report(make_run(summary=changes, rounds=[], clients={})))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [link for link in links if not link.startswith("#")] == ["fold-2/report.html", "fold-3/report.html"]
    assert "Fold 1 121" in page.text
