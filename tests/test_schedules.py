"""Learning-rate schedules against torch's own, and in a run: stopped and resumed it is the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file
from torch.optim import lr_scheduler

import fedsim
from fedsim.algorithms import LocalTraining
from fedsim.schedules import Constant, Cosine, Exponential, Plateau, StepDecay, TimeDecay
from tests.conftest import SMALL

ROUNDS = 12
LOSSES = [3.0, 2.0, 2.5, 2.0, 2.2, 1.9, 1.9, 1.95, 2.0, 1.0, 1.1, 1.2]
TORCH = {
    "step": (StepDecay(every=3, factor=0.4), lambda o: lr_scheduler.StepLR(o, 3, 0.4)),
    "exponential": (Exponential(factor=0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "cosine": (Cosine(final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, ROUNDS - 1, eta_min=0.05)),
    "time": (TimeDecay(decay=0.3), lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + 0.3 * t))),
    "constant": (Constant(), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
}


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
@pytest.mark.parametrize("name", TORCH)
def test_schedules_are_torch_s(name):
    schedule, make = TORCH[name]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    theirs = make(optimizer)
    local = LocalTraining(learning_rate=0.5, schedule=schedule)
    for round_ in range(1, ROUNDS + 1):
        assert local.learning_rate_at(round_, ROUNDS, []) == pytest.approx(optimizer.param_groups[0]["lr"])
        theirs.step()


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
def test_a_plateau_is_torch_s():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.0)  # theirs waits one more
    local = LocalTraining(learning_rate=0.5, schedule=Plateau(patience=2, factor=0.5))
    rates = []
    for number, loss in enumerate(LOSSES):
        theirs.step(loss)
        rates.append(local.learning_rate_at(number + 2, 20, LOSSES[: number + 1]))
        assert rates[-1] == pytest.approx(optimizer.param_groups[0]["lr"])
    assert len(set(rates)) > 2


def test_warm_up_rises_evenly_to_the_schedule():
    local = LocalTraining(learning_rate=0.4, warmup_rounds=3)
    rates = [local.learning_rate_at(round_, 9, []) for round_ in range(1, 6)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_a_run_follows_its_schedule_and_resumes_on_it(tmp_path):
    """The first round at half the rate is that of a scenario with half the rate; a stopped run goes on the same."""
    plateau = 'algorithm.local.schedule={kind="plateau", patience=1, factor=0.1}'
    scenario = fedsim.parse_scenario(SMALL, "small", [plateau, "rounds=6", "algorithm.local.learning_rate=2.0"])
    rows: list[dict] = []
    whole = fedsim.run(scenario, tmp_path / "whole", rows.append)
    assert any(later["loss"] > earlier["loss"] for earlier, later in pairwise(rows))

    def stop(row):
        if row["round"] == 4:
            raise KeyboardInterrupt

    fedsim.run(scenario, tmp_path / "stopped", stop)
    again = fedsim.resume(tmp_path / "stopped")
    ours, theirs = (load_file(result.directory / "model.safetensors") for result in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    half = fedsim.parse_scenario(SMALL, "small", ["algorithm.local.warmup_rounds=1", "rounds=1"])
    plain = fedsim.parse_scenario(SMALL, "small", ["algorithm.local.learning_rate=0.1", "rounds=1"])
    ours, theirs = (
        load_file(fedsim.run(each, tmp_path / name).directory / "model.safetensors")
        for each, name in ((half, "half"), (plain, "plain"))
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
