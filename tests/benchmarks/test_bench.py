"""The benchmark runs, writes what is promised, and compares engines that do the same work."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

from benchmarks import plain
from benchmarks.fedsim_engine import FedsimRounds, make_scenario
from benchmarks.workloads import draw_cohort, make_data, seeded_model
from fedsim.params import Layout

ENGINES = {"plain", "bare", "fedsim", "fedsim-torch", "fedsim-dp", "fedsim-torch-dp", "opacus"}


def test_the_quick_benchmark_writes_the_promised_json(tmp_path):
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks.main", "--quick", "--json", str(file)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    document = json.loads(file.read_text())
    assert set(document) == {"tiny", "machine"}
    assert set(document["tiny"]) == ENGINES
    for result in document["tiny"].values():
        assert set(result) == {"seconds_per_round", "runs"}
        assert len(result["runs"]) == 2
        assert result["seconds_per_round"] == statistics.median(result["runs"]) > 0
    assert set(document["machine"]) == {"cpu", "cores", "memory_gib", "python", "torch", "date"}
    assert done.stdout.startswith("| workload | plain loop / fedsim |")


@pytest.mark.parametrize("trainer", ["auto", "vectorised"])
@pytest.mark.parametrize("workload", ["tiny", "mnist"])
def test_fedsim_and_the_plain_loop_compute_the_same_update(workload, trainer):
    rounds, cohort = FedsimRounds(make_scenario(workload, trainer, private=False)), draw_cohort(workload, 1)
    rounds.host()
    update = rounds.round(1, cohort)
    features, labels = (part.flatten(0, 1) for part in make_data(workload))
    clients = [[(features[batch], labels[batch]) for batch in batches] for batches in rounds.drawn(1, cohort)]
    assert [[len(labels) for _, labels in batches] for batches in clients] == [[10] * 5] * len(cohort)
    module = seeded_model(workload)
    start = list(Layout.of(module).views(rounds.federation.start).values())
    assert plain.difference(update, plain.mean_update(module, start, clients)) < 1e-4
