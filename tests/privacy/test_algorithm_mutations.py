"""Ways in which an algorithm gets privacy wrong, each re-introduced on purpose: the named check must then fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
import fedsim.server
import fedsim.updates
from fedsim.aggregation import WeightedSum
from fedsim.algorithms import ALGORITHMS, Given
from fedsim.algorithms.fednova import FedNova
from fedsim.algorithms.mimelite import MimeLite
from fedsim.algorithms.scaffold import Scaffold
from fedsim.client import train_clients
from fedsim.client_store import ClientStore
from fedsim.federation import build_federation
from fedsim.training.trainer import Trainer
from fedsim.training.work import Work
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, job_of, settings_of, work_of

EMPTY = "privacy.example.sampling_rate=1e-9"


def build(name: str, text: str, *overrides: str) -> Any:
    steps = [] if ALGORITHMS[name].one_step else ["algorithm.local.steps=2"]
    return build_federation(fedsim.parse_scenario(SMALL + text, "small", [*settings_of(name), *steps, *overrides]))


def trained(made: Any) -> Any:
    """What clients report and keep, from states and a memory that are not zero."""
    algorithm, layout, rng = made.scenario.algorithm, made.layout, torch.Generator().manual_seed(0)
    memory = 0.1 * torch.randn(algorithm.memory_size(layout), generator=rng)
    state = 0.1 * torch.randn(6, algorithm.state_size(layout), generator=rng)
    return algorithm.train(made.trainer, Given(made.start, memory, state, made.start, layout), work_of(made))


# --- checks


def only_noised_gradients_are_reported_and_kept() -> None:
    """DP-SGD draws none of the records here, so what they are may change nothing that is, or will be, in a report."""
    for name, algorithm in ALGORITHMS.items():
        if algorithm.refuses_example_level is not None:
            continue
        made = build(name, EXAMPLE_PRIVACY, EMPTY, "engine.trainer=vectorised")
        first = trained(made)
        reports, states = first.updates.clone(), first.state
        assert reports.any()
        made.task.features.copy_(made.task.features.flip(0) + 1)
        made.task.labels.copy_(made.task.labels.flip(0))
        second = trained(made)
        assert torch.equal(second.updates, reports), name
        if algorithm.reports_follow_state:
            assert states is None or torch.equal(second.state, states), name


def a_whole_report_is_no_longer_than_the_clip_norm(tmp_path: Any) -> None:
    """With everything behind the update: for every algorithm that allows it, and adversarial states."""
    for name, algorithm in ALGORITHMS.items():
        if algorithm.refuses_client_level is not None:
            continue
        made = build(name, CLIENT_PRIVACY, "privacy.client.clip_norm=0.01", "engine.trainer=vectorised")
        store = ClientStore(tmp_path / name, 6, made.state_size) if made.state_size else None
        if store is not None:
            store.write(1, np.arange(6), np.full((6, made.state_size), 3.0, np.float32))
        job = replace(job_of(made, [2]), memory=np.full(made.sent_memory_size, 5.0, np.float32))
        assert 0 < np.linalg.norm(train_clients(made, job, store).total) <= 0.01 * (1 + 1e-6), name


def what_the_server_makes_of_a_sum_tells_nothing_of_the_cohort() -> None:
    """The same sum gives the same model and memory whether 2 or 5 clients happened to take part."""
    made = build("scaffold", CLIENT_PRIVACY)
    found = []
    for clients in (2, 5):
        sums = fedsim.server.Collected(WeightedSum(made.sum_size, torch.device("cpu")), clients)
        sums.updates.add_sum(torch.ones(made.sum_size), float(clients), clients)
        server = fedsim.server.ServerStep(made.scenario.algorithm.server, made.start)
        memory = torch.zeros(len(made.start))
        session = fedsim.server.Session(made, None, None, server, None, made.plan.clip_norms(), None, memory)  # type: ignore[arg-type]
        fedsim.server.step(session, fedsim.server.release(session, sums, 1), clients)
        found.append(torch.cat([server.params, session.memory]))
    torch.testing.assert_close(*found)


# --- mutations


def _variate_of_the_records(right: Any) -> Any:
    """Option I of SCAFFOLD: the gradient of all records at the round's model, which DP-SGD does not noise."""

    def train(self: Any, trainer: Trainer, given: Given, work: Work) -> Any:
        result = right(self, trainer, given, work)
        fresh = trainer.full_gradients(self.local, given.params, replace(work, noise=None))
        return replace(result, state=fresh)

    return train


def _report_of_the_records(right: Any) -> Any:
    def train(self: Any, trainer: Trainer, given: Given, work: Work) -> Any:
        result = right(self, trainer, given, work)
        change = trainer.full_gradients(self.local, given.params, replace(work, noise=None)) - given.state
        update = result.updates[:, : len(given.params)]
        return replace(result, updates=torch.cat([update, self.path_length * change], dim=1))

    return train


def _whole_in_spite_of_noise(right: Any) -> Any:
    return lambda self: right(replace(self, noise=None))


def _clips_the_update_alone(right: Any) -> Any:
    def add(self: Any, total: Any, reports: Any, clip_norm: float, weights: Any) -> Any:
        size = self.layout.size
        total[size:] += weights @ reports[:, size:].double()
        return right(self, total[:size], reports[:, :size], clip_norm, weights)

    return add


def _true_share(right: Any) -> Any:
    def step(session: Any, aggregate: Any, arrived: int) -> None:
        plan = replace(session.federation.plan, client=None)
        other = replace(session, federation=replace(session.federation, plan=plan))
        right(other, aggregate, arrived)
        session.memory = other.memory

    return step


@pytest.mark.parametrize(
    ("target", "name", "wrong"),
    [
        (Scaffold, "train", _variate_of_the_records),
        (Scaffold, "train", _report_of_the_records),
        (MimeLite, "refuses_example_level", lambda right: None),
    ],
    ids=["a control variate of records", "a reported variate of records", "mimelite allowed"],
)
def test_what_no_gradient_noised_is_caught(target, name, wrong, monkeypatch):
    only_noised_gradients_are_reported_and_kept()
    monkeypatch.setattr(target, name, wrong(getattr(target, name)))
    monkeypatch.setattr(Work, "whole", _whole_in_spite_of_noise(Work.whole))
    with pytest.raises(AssertionError):
        only_noised_gradients_are_reported_and_kept()


def test_records_cannot_be_had_whole_where_they_are_sampled():
    """Also where somebody forgets to refuse: DP-SGD's work gives samples only."""
    made = build("fedavg", EXAMPLE_PRIVACY)
    with pytest.raises(AssertionError, match="samples"):
        made.trainer.full_gradients(made.scenario.algorithm.local, made.start, work_of(made))
    with pytest.raises(AssertionError, match="samples"):
        made.trainer.mean_losses(made.start, work_of(made))


def test_a_report_that_is_clipped_in_part_is_caught(tmp_path, monkeypatch):
    a_whole_report_is_no_longer_than_the_clip_norm(tmp_path)
    monkeypatch.setattr(Trainer, "add_clipped", _clips_the_update_alone(Trainer.add_clipped))
    (tmp_path / "wrong").mkdir()
    with pytest.raises(AssertionError, match="scaffold"):
        a_whole_report_is_no_longer_than_the_clip_norm(tmp_path / "wrong")


def test_a_memory_that_tells_how_many_took_part_is_caught(monkeypatch):
    what_the_server_makes_of_a_sum_tells_nothing_of_the_cohort()
    monkeypatch.setattr(fedsim.server, "step", _true_share(fedsim.server.step))
    with pytest.raises(AssertionError):
        what_the_server_makes_of_a_sum_tells_nothing_of_the_cohort()


@pytest.mark.parametrize("unit", ["example", "client"])
def test_every_refusal_is_in_force(unit, monkeypatch):
    """A reason that is given is a reason that is heard; without it the scenario loads."""
    text = {"example": EXAMPLE_PRIVACY, "client": CLIENT_PRIVACY}[unit]
    refusing = [name for name, cls in ALGORITHMS.items() if getattr(cls, f"refuses_{unit}_level") is not None]
    assert {"example": MimeLite.refuses_example_level, "client": FedNova.refuses_client_level}[unit] is not None
    for name in refusing:
        with pytest.raises(fedsim.errors.BadInput, match=rf'"{name}": not with \[privacy.{unit}\]'):
            build(name, text)
        monkeypatch.setattr(ALGORITHMS[name], f"refuses_{unit}_level", None)
        assert build(name, text)
