"""What a round leaves behind and carries on: it grows with the cohort, not with the population, and survives a stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedsim
import fedsim.drawing
from fedsim.client import app as client_app
from fedsim.client import host
from fedsim.engines import InProcessGrid
from fedsim.federation import build_federation
from fedsim.population import Population
from fedsim.privacy.planning import make_plan
from fedsim.record import RunDirectory
from fedsim.running import _open
from fedsim.server import run_rounds
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL

POISSON = 'cohort.sampling={kind="poisson", rate=0.5}'
MILLION = 1_000_000


class Stop(Exception):
    pass


def stop_after_three(row):
    if row["round"] == 3:
        raise Stop


def participations(run: Path) -> dict:
    return json.loads((run / "clients.json").read_text())["participations"]


@pytest.mark.parametrize("text", [SMALL, SMALL + CLIENT_PRIVACY, SMALL + EXAMPLE_PRIVACY])
def test_participations_survive_a_stop_and_are_those_of_the_cohorts(tmp_path, text):
    scenario = fedsim.parse_scenario(text, "small", ("rounds=6", POISSON))
    fedsim.run(scenario, tmp_path / "whole")
    with pytest.raises(Stop):
        fedsim.run(scenario, tmp_path / "stopped", stop_after_three)
    with (tmp_path / "stopped" / "cohorts.bin").open("ab") as file:
        file.write(np.arange(6, dtype="<i4").tobytes()[:-2])  # a round that was stopped before its checkpoint, and torn
    fedsim.resume(tmp_path / "stopped")
    for run in (tmp_path / "whole", tmp_path / "stopped"):
        rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
        assert RunDirectory(run).participations(6).sum() == sum(row["cohort"] for row in rows)
    assert (tmp_path / "whole/cohorts.bin").read_bytes() == (tmp_path / "stopped/cohorts.bin").read_bytes()
    assert participations(tmp_path / "whole") == participations(tmp_path / "stopped")


@pytest.mark.parametrize("privacy", ["", EXAMPLE_PRIVACY, CLIENT_PRIVACY.replace("1e-2", "1e-7")])
def test_a_round_of_a_million_clients_leaves_what_its_cohort_needs(tmp_path, privacy):
    text = SMALL + privacy + '[cohort]\nsampling = { kind = "poisson", rate = 1e-5 }'
    made = build_federation(fedsim.parse_scenario(text, "small"))
    records = len(made.task.labels)
    sizes = np.full(MILLION, 30)
    sizes[::2] = 40
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    population = Population(np.arange(offsets[-1]) % records, offsets)
    made = replace(made, population=population, plan=make_plan(made.scenario, population.sizes))
    session = _open(made, RunDirectory.create(tmp_path / "run", made.scenario), None)
    host(made)
    run_rounds(session, InProcessGrid(client_app))
    cohorts = [json.loads(line)["cohort"] for line in (tmp_path / "run/rounds.jsonl").read_text().splitlines()]
    assert max(cohorts) < 60  # 10 are expected; more than 60 in one of 3 rounds has a probability below 1e-20
    assert (tmp_path / "run/cohorts.bin").stat().st_size == 4 * sum(cohorts)
    for file in [*(tmp_path / "run/checkpoint").iterdir(), tmp_path / "run/ledger.db"]:
        assert file.stat().st_size < 40_000
    assert session.directory.participations(MILLION).sum() == sum(cohorts)
    session.ledger.close()


def test_clients_that_can_still_pay_are_counted_as_if_all_were_looked_at(tmp_path, monkeypatch):
    counts = []

    def compared(session, plan):
        count = honest(session, plan)
        session.can_pay = None
        counts.append((count, honest(session, plan)))
        return count

    honest = fedsim.drawing._left
    text = SMALL + EXAMPLE_PRIVACY + "sampling_rate = 0.2\nbudget = 3.0\n"
    scenario = fedsim.parse_scenario(text, "small", ("rounds=40", 'cohort.sampling={kind="poisson", rate=0.3}'))
    result = fedsim.run(scenario, tmp_path / "plain")
    monkeypatch.setattr(fedsim.drawing, "_left", compared)
    again = fedsim.run(scenario, tmp_path / "compared")
    assert result.exit_code == again.exit_code == 3
    assert result.summary["rounds"] == again.summary["rounds"]
    assert len({one for one, _ in counts}) > 1
    assert all(one == other for one, other in counts)
