"""A sweep that is compared: its settings' values, how its runs ended, and what failed, as its record says it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import BadInput
from tests.comparing.test_comparing import make_run

RATES = {0: 0.1, 1: 0.5, 2: 2.0}
SEEDS = (0, 1)


def make_sweep(folder: Path, status: dict[int, str], base: str = "rounds = 3\n", **settings: Any) -> Path:
    """A sweep of three settings whose runs end as ``status`` says ("completed" else); of what failed no run is left."""
    (folder / "runs").mkdir(parents=True)
    rows = []
    for trial, rate in RATES.items():
        for seed in SEEDS:
            name, ended = f"t{trial:04d}-s{seed}", status.get(trial, "completed")
            rows.append(
                {"trial": trial, "seed": seed, "values": {"rate": rate}, "status": ended, "run": f"runs/{name}"}
            )
            if ended == "failed":
                continue
            run = make_run(folder / "runs" / name, seed, 0.5 + 0.1 * trial, algorithm={"rate": rate}, **settings)
            if ended == "pruned":  # which the run itself does not know
                file = run / "summary.json"
                file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "interrupted", "rounds": 1}))
    (folder / "trials.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "base.toml").write_text(base)
    return folder


def test_pruned_runs_are_told_and_compared_to_nothing(tmp_path):
    found = fedsim.compare(make_sweep(tmp_path / "sweep", {0: "pruned"}))
    assert [group["status"] for group in found.facts["groups"]] == [{"pruned": 2}, {"completed": 2}, {"completed": 2}]
    (pair,) = found.facts["paired"]
    assert (pair["reference_number"], pair["other_number"], pair["mean"]) == (2, 3, pytest.approx(0.1))
    lines = repr(found).splitlines()
    assert lines[2].split()[:8] == ["[1]", "rate=0.1", "0", "2", "pruned", "after", "1", "round"]
    assert [group["trial"] for group in found.facts["groups"]] == [0, 1, 2]


def test_what_failed_is_counted(tmp_path):
    sweep = make_sweep(tmp_path / "sweep", {1: "failed"})
    (sweep / "runs/t0003-s0").mkdir()
    found = fedsim.compare(sweep)
    assert [group["label"] for group in found.facts["groups"]] == ["rate=0.1", "rate=2"]
    said = "Left out of sweep: 2 runs failed and 1 run did not end, and with them 1 whole setting."
    assert found.facts["notes"][0] == said
    make_run(sweep / "runs/t0001-s0", 0, 0.9)  # it was paused once, before it failed
    assert len(fedsim.compare(sweep).groups) == 2
    alone = make_sweep(tmp_path / "alone", dict.fromkeys(RATES, "failed"))
    with pytest.raises(BadInput, match=r"no finished run to compare\. Left out of alone: 6 runs failed"):
        fedsim.compare(alone)


def test_the_threads_that_a_sweep_chose_are_no_difference(tmp_path):
    outside = make_run(tmp_path / "run", 0, 0.9, algorithm={"rate": 0.1})
    sweep = make_sweep(tmp_path / "sweep", {}, engine={"workers": 2})
    keys = [each["key"] for each in fedsim.compare(outside, sweep).facts["differences"]]
    assert keys == ["algorithm.rate"]
    (sweep / "base.toml").write_text("[engine]\nworkers = 2\n")
    keys = [each["key"] for each in fedsim.compare(outside, sweep).facts["differences"]]
    assert keys == ["algorithm.rate", "engine.workers"]
