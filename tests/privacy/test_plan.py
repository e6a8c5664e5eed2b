"""The plan: what is sampled, noised and charged belongs together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedsim.client import train_clients
from fedsim.errors import BadInput
from fedsim.privacy.accounting import epsilon
from fedsim.privacy.events import Event, compose
from fedsim.privacy.mechanism import GaussianSum
from fedsim.privacy.sampling import All, Fixed, Poisson
from tests.conftest import CLIENT_PRIVACY, EXAMPLE_PRIVACY, SMALL, batches_of, job_of, work_of

TARGET = EXAMPLE_PRIVACY.replace("noise_multiplier = 1.1", "target_epsilon = 2.0")


def test_released_noise_has_the_event_s_spread():
    """1e6 draws: the measured deviation is within 0.4 % of z * C except with probability 2e-8 (5.6 sigma)."""
    mechanism = GaussianSum(Event(1.3, 0.01, "poisson"), clip_norm=0.5)
    rng = np.random.default_rng(5)
    release = mechanism.release(torch.full((1_000_000,), 7.0), rng)
    noised = release.total
    assert release.event == mechanism.event
    assert float(noised.double().std()) == pytest.approx(1.3 * 0.5, rel=0.004)
    assert float(noised.double().mean()) == pytest.approx(7.0, abs=5.6 * 0.65 / 1000)


def test_poisson_batches_are_poisson(federation):
    """2,000 steps over the 6 clients: each rate's estimate within 5 standard errors (false alarm below 4e-6)."""
    made = federation("algorithm.local.steps=2000", "algorithm.local.batch_size=16", text=SMALL + EXAMPLE_PRIVACY)
    work = work_of(made, round_=1)
    for client in range(6):
        rate, size = made.plan.example.rates[client], made.population.sizes[client]
        counts = np.array([len(batch) for batch in batches_of(work, client)])
        assert len(counts) == 2000
        error = np.sqrt(rate * (1 - rate) / (2000 * size))
        assert abs(counts.mean() / size - rate) <= 5 * error + 1e-12
        assert counts.var() == pytest.approx(size * rate * (1 - rate), rel=0.25, abs=1e-12)


def test_poisson_cohorts_are_poisson():
    rng = np.random.default_rng(0)
    draws = np.zeros((4000, 50))
    for row in draws:
        row[Poisson(rate=0.2).draw(50, 1, rng)] = 1
    # frequencies within 5 standard errors, and two clients no more often together than independence says
    np.testing.assert_allclose(draws.mean(0), 0.2, atol=5 * np.sqrt(0.16 / 4000))
    together = (draws.T @ draws / 4000)[np.triu_indices(50, 1)]
    np.testing.assert_allclose(together, 0.04, atol=6 * np.sqrt(0.0384 / 4000))


def test_what_each_sampling_may_claim():
    assert Poisson(rate=0.2).event(1.5, None, 9) == Event(1.5, 0.2, "poisson", "add-remove")
    assert Fixed(size=5).event(1.5, None, 9) == Event(1.5, 1.0, "none", "zero-out")
    assert All().event(1.5, None, 9) == Event(1.5, 1.0, "none", "add-remove")
    assert len(Fixed(size=5).draw(9, 1, np.random.default_rng(0))) == 5


def test_each_client_s_noise_meets_the_target_and_no_less_would(federation):
    plan = federation("rounds=5", text=SMALL + TARGET).plan.example
    for client in range(6):
        count = int(plan.steps[client]) * plan.participations
        event = plan.event(client)
        assert epsilon(compose([(event, count)]), plan.deltas[0]) <= 2.0
        less = Event(event.noise_multiplier * 0.995, event.rate, event.sampling)
        assert epsilon(compose([(less, count)]), plan.deltas[0]) > 2.0
    assert plan.participations == 5
    assert len(set(plan.noise_multipliers)) > 1


def test_client_noise_meets_the_target(federation):
    privacy = CLIENT_PRIVACY.replace("noise_multiplier = 1.2", "target_epsilon = 3.0")
    plan = federation("rounds=7", "cohort.sampling={kind='poisson', rate=0.5}", text=SMALL + privacy).plan.client
    assert plan.event.rate == 0.5
    assert 2.97 < epsilon(compose([(plan.event, 7)]), plan.deltas[0]) <= 3.0
    assert plan.expected_weight == 3.0


def test_charges_name_exactly_what_the_cohort_will_run(federation):
    made = federation(text=SMALL + EXAMPLE_PRIVACY)
    cohort = np.array([0, 2, 5])
    reply = train_clients(made, job_of(made, cohort, 1))
    charged: dict[Event, int] = {}
    for charge in made.plan.charges(1, cohort):
        charged[charge.event] = charged.get(charge.event, 0) + charge.count * len(charge.clients)
    assert dict(reply.events) == charged
    assert sum(charged.values()) == work_of(made, cohort, round_=1).steps.sum()


def test_rate_steps_and_denominator_are_public_when_a_rate_is_given(federation):
    plan = federation("privacy.example.sampling_rate=0.25", text=SMALL + EXAMPLE_PRIVACY).plan.example
    assert set(plan.rates) == {0.25}
    assert set(plan.steps) == {4}
    assert plan.batch_size == 64


def test_a_delta_that_would_allow_publishing_a_record_is_refused(federation):
    with pytest.raises(BadInput, match="below 1 / n"):
        federation("privacy.example.delta=0.5", text=SMALL + EXAMPLE_PRIVACY)
