"""``fedsim describe``: numbers as the obvious loop has them, and files only where they were asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim import cli
from fedsim.data import Digits
from fedsim.describing import as_text
from fedsim.errors import BadInput
from fedsim.holdings import load_holdings
from fedsim.loading import parse_scenario
from fedsim.report import write_population
from tests.conformance.test_tables import owned_digits
from tests.conftest import SMALL
from tests.tasks.made import Made


def test_the_numbers_are_those_of_the_obvious_loop():
    scenario = parse_scenario(SMALL, "x", ["evaluation.unseen_clients=0.2"])
    found, holdings = fedsim.describe(scenario), load_holdings(scenario)
    labels, held = holdings.data.train.labels, [holdings.whole.records(client) for client in range(5)]
    pooled = np.bincount(labels[np.concatenate(held)], minlength=10) / sum(map(len, held))
    counts = [np.bincount(labels[own], minlength=10) for own in held]
    assert found["clients"] == 5
    assert found["labels"]["counts"] == [own.tolist() for own in counts]
    assert found["label_skew"]["mean_classes"] == pytest.approx(np.mean([(own > 0).sum() for own in counts]))
    distances = [np.abs(own / own.sum() - pooled).sum() / 2 for own in counts]
    assert found["label_skew"]["mean_total_variation"] == pytest.approx(np.mean(distances))
    sizes = [len(own) for own in held]
    assert found["sizes"]["first_quartile"] == np.percentile(sizes, 25)
    assert sum(found["sizes"]["counts"]) == 5
    assert found["held_out"]["unseen_clients"] == 1
    assert found["held_out"]["unseen_records"] == len(labels) - sum(sizes)


def test_natural_clients_are_called_by_their_names(monkeypatch):
    monkeypatch.setattr(Digits, "load", owned_digits)
    found = fedsim.describe(parse_scenario("", "x", ['population={clients=4, partition={kind="natural"}}']))
    assert set(found["labels"]["clients"]) < set("abcdef")
    assert "note: 2 owner(s) with" in as_text(found)


def test_few_clients_are_listed_by_name_and_size_and_many_as_a_histogram(monkeypatch):
    monkeypatch.setattr(Digits, "load", owned_digits)
    found = fedsim.describe(parse_scenario("", "x", ['population.partition={kind="natural"}']))
    owners = owned_digits(Digits(), 0).train.owners
    assert found["each"] == {name: int((owners == number).sum()) for number, name in enumerate("abcdef")}
    lines = [line.split() for line in as_text(found).splitlines()]
    assert [[words[0], words[-1]] for words in lines[3:9]] == [[name, str(n)] for name, n in found["each"].items()]
    twenty = fedsim.describe(parse_scenario("", "x", ["population.clients=20"]))
    assert list(twenty["each"]) == [str(client) for client in range(20)]
    many = fedsim.describe(parse_scenario("", "x", ["population.clients=21"]))
    assert many["each"] is None
    assert "  68  " in as_text(many)


@pytest.mark.parametrize(("kind", "held"), [("classes", "classes that a client"), ("numbers", "tenths of the labels")])
def test_numbers_are_not_called_classes(tmp_path, kind, held):
    found = fedsim.describe(replace(parse_scenario("", "x", ["population.clients=4"]), data=Made(kind=kind)))
    assert f"\n{held}" in as_text(found)
    page = write_population(found, tmp_path / "p.html").read_text()
    assert ("Classes that a client holds" in page) == (kind == "classes")
    assert ("Tenths of the labels" in page) == (kind == "numbers")


def run_command(monkeypatch, capsys, *words: object) -> str:
    monkeypatch.setattr("sys.argv", ["fedsim", *map(str, words)])
    cli.main()
    return capsys.readouterr().out


def test_the_command_prints_a_table_or_json_and_writes_nothing(tmp_path, monkeypatch, capsys):
    file = tmp_path / "s.toml"
    file.write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    text = run_command(monkeypatch, capsys, "describe", file, "--set", "evaluation.folds=4")
    assert "6 clients hold 1797 records (digits, partition dirichlet)" in text
    assert "folds: 4" in text
    assert sum(line.startswith("  client") for line in text.splitlines()) == 6
    assert json.loads(run_command(monkeypatch, capsys, "describe", file, "--json"))["clients"] == 6
    assert list(tmp_path.iterdir()) == [file]


def test_plots_are_a_page_or_a_picture(tmp_path):
    description = fedsim.describe(parse_scenario(SMALL, "<x>"[1:2]))
    page = write_population(description, tmp_path / "p.html").read_text()
    assert page.count("<svg") == 2
    assert "http-equiv" in page
    assert (write_population(description, tmp_path / "p.png").read_bytes())[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("name", ["p.svg", "p", "there.html", "no/where.png"])
def test_a_plot_that_cannot_be_written_is_one_error(tmp_path, name):
    Path(tmp_path / "there.html").write_text("mine")
    with pytest.raises(BadInput, match="--out"):
        write_population(fedsim.describe(parse_scenario(SMALL, "x")), tmp_path / name)
    assert (tmp_path / "there.html").read_text() == "mine"
