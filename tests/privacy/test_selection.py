"""The cost of hyper-parameter search against dp-accounting, the paper's theorems on fine grids, published numbers."""

from __future__ import annotations

import math

import dp_accounting
import numpy as np
import pytest
from scipy.stats import logser, nbinom

from fedsim.privacy.accounting import epsilon, to_dp_event
from fedsim.privacy.events import Composition, Event, compose
from fedsim.privacy.selection import POISSON, Tries, naive_epsilon, selection_epsilon

MNIST = compose([(Event(1.3, 250 / 60000, "poisson"), 3600)])
GAUSSIAN = compose([(Event(40.0), 100)])
DELTA = 1e-5


def by_dp_accounting(base: Composition, delta: float, tries: Tries) -> float:
    """At its own orders and the lowest of ours, which matters for few tries."""
    event = dp_accounting.dp_event.RepeatAndSelectDpEvent(to_dp_event(base), tries.mean, tries.shape)
    orders = [1.02, 1.05, *dp_accounting.rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS]
    return dp_accounting.rdp.RdpAccountant(orders).compose(event).get_epsilon(delta)


def test_the_published_example():
    """15 epochs of MNIST cost 0.9422 by Renyi divergences, the best of a geometric number with mean 10 costs 2.0136."""
    assert selection_epsilon(MNIST, DELTA, Tries(1)) == pytest.approx(0.9422, abs=1e-4)
    assert selection_epsilon(MNIST, DELTA, Tries(10)) == pytest.approx(2.0136, abs=1e-3)


@pytest.mark.parametrize("shape", [0.0, 0.3, 1.0, 4.0, POISSON])
@pytest.mark.parametrize("mean", [1.5, 10.0, 300.0])
@pytest.mark.parametrize(
    "base", [MNIST, GAUSSIAN, compose([(Event(0.8, 0.02, "poisson"), 200), (Event(3.0, 0.05, "poisson"), 10)])]
)
def test_dp_accounting_agrees(base, mean, shape):
    tries = Tries(mean, shape)
    theirs = by_dp_accounting(
        base, DELTA, tries
    )  # it lacks order 1 in the second place, which helps few tries a little
    assert 0.995 * theirs <= selection_epsilon(base, DELTA, tries) <= (1 + 1e-6) * theirs


def by_the_theorem(divergence: float, delta: float, eta: float, gamma: float, mean: float) -> float:
    """Theorem 2 for one Gaussian of ``divergence`` a order, minimised over both orders on a fine grid."""
    orders = 1 + np.geomspace(1e-3, 1e3, 4000)
    base = divergence * orders
    second = ((1 - 1 / orders) * base + math.log(1 / gamma) / orders).min()
    selected = base + (1 + eta) * second + math.log(mean) / (orders - 1)
    return float((selected + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min())


@pytest.mark.parametrize("gamma", [0.9, 0.3, 0.02])
@pytest.mark.parametrize("eta", [-0.5, 0.0, 0.5, 1.0, 3.0])
def test_the_theorem_written_again(eta, gamma):
    """gamma is given here, and the mean comes from SciPy's distributions conditioned on at least one try."""
    if eta == 0:
        mean = float(logser.mean(1 - gamma))
    elif eta > 0:
        mean = float(nbinom.mean(eta, gamma) / (1 - nbinom.pmf(0, eta, gamma)))
    else:  # SciPy has no negative shapes: sum the paper's definition, of which the binomial coefficients alternate
        weights = np.cumprod([-eta * (1 - gamma), *((k - 1 + eta) / k * (1 - gamma) for k in range(2, 5000))])
        mean = float((np.arange(1, 5000) * weights).sum() / weights.sum())
    expected = by_the_theorem(100 / (2 * 40**2), DELTA, eta, gamma, mean)
    assert selection_epsilon(GAUSSIAN, DELTA, Tries(mean, eta)) == pytest.approx(expected, rel=3e-3)


def test_poisson_tries_by_the_theorem_written_again():
    """Theorem 6 with the exact delta of a Gaussian at each order, which is smaller than that from divergences."""
    from scipy.stats import norm

    sigma, mean, orders = 40 / math.sqrt(100), 10.0, 1 + np.geomspace(1e-2, 1e3, 2000)
    level = np.log1p(1 / (orders - 1))
    exact = norm.cdf(0.5 / sigma - level * sigma) - np.exp(level + norm.logcdf(-0.5 / sigma - level * sigma))
    selected = orders / (2 * sigma**2) + mean * exact + math.log(mean) / (orders - 1)
    best = float((selected + np.log1p(-1 / orders) - np.log(DELTA * orders) / (orders - 1)).min())
    assert best <= selection_epsilon(GAUSSIAN, DELTA, Tries(mean, POISSON)) <= 1.25 * best


@pytest.mark.parametrize("shape", [-0.5, 0.0, 1.0, 7.0, POISSON])
def test_more_tries_never_cost_less(shape):
    costs = [selection_epsilon(MNIST, DELTA, Tries(mean, shape)) for mean in (1, 1.0001, 2, 5, 10, 100, 1e4, 1e9)]
    assert costs == sorted(costs)
    assert all(math.isfinite(cost) for cost in costs)


def test_one_try_costs_one_run_and_wider_distributions_cost_less():
    one = selection_epsilon(GAUSSIAN, DELTA, Tries(1))
    assert epsilon(GAUSSIAN, DELTA) <= one <= 1.1 * epsilon(GAUSSIAN, DELTA)
    assert selection_epsilon(GAUSSIAN, DELTA, Tries(1, 0.0)) == one
    costs = [selection_epsilon(MNIST, DELTA, Tries(10, shape)) for shape in (-0.5, 0.0, 1.0, 5.0)]
    assert costs == sorted(costs)


def test_publishing_everything_costs_more_than_the_best_of_many():
    assert naive_epsilon(MNIST, DELTA, 1) == epsilon(MNIST, DELTA)
    assert naive_epsilon(MNIST, DELTA, 0) == 0
    assert naive_epsilon(MNIST, DELTA, 10) == epsilon(compose([(Event(1.3, 250 / 60000, "poisson"), 36000)]), DELTA)
    for mean in (10, 100):
        assert selection_epsilon(MNIST, DELTA, Tries(mean)) < naive_epsilon(MNIST, DELTA, mean)


def test_replacing_a_unit_doubles_the_sensitivity():
    plain = compose([(Event(2.0), 5)])
    replaced = compose([(Event(4.0, relation="replace-one"), 5)])
    assert selection_epsilon(replaced, DELTA, Tries(10)) == selection_epsilon(plain, DELTA, Tries(10))
    added, swapped, fixed = (
        selection_epsilon(compose([(Event(2.0, 0.01, sampling, relation), 100)]), DELTA, Tries(10))
        for sampling, relation in (("poisson", "add-remove"), ("poisson", "replace-one"), ("fixed", "replace-one"))
    )
    assert added < swapped
    assert added < fixed < selection_epsilon(compose([(Event(2.0, relation="replace-one"), 100)]), DELTA, Tries(10))


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert selection_epsilon((), DELTA, Tries(10)) == 0
    assert selection_epsilon(compose([(Event(0.0, 0.0, "poisson"), 3)]), DELTA, Tries(10)) == 0
    assert selection_epsilon(compose([(Event(math.inf), 3)]), DELTA, Tries(10)) == 0
    assert selection_epsilon(compose([(Event(0.0, 0.1, "poisson"), 3)]), DELTA, Tries(10)) == math.inf


@pytest.mark.parametrize("mean", [0.5, 0.0, -1.0, math.nan, math.inf])
def test_an_impossible_mean_is_refused(mean):
    with pytest.raises(ValueError, match="mean number of tries"):
        Tries(mean)


@pytest.mark.parametrize("shape", [-1.0, -2.0, math.nan, -math.inf])
def test_an_impossible_shape_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        Tries(2.0, shape)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, math.nan])
def test_an_impossible_delta_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        selection_epsilon(GAUSSIAN, delta, Tries(2))


def test_what_cannot_be_accounted_is_refused():
    with pytest.raises(ValueError, match="share the neighbouring relation"):
        selection_epsilon(compose([(Event(1.0), 1), (Event(1.0, relation="replace-one"), 1)]), DELTA, Tries(2))
    with pytest.raises(ValueError, match="no amplification"):
        selection_epsilon(compose([(Event(1.0, 0.1, "fixed"), 1)]), DELTA, Tries(2))
    with pytest.raises(ValueError, match="-1 tries"):
        naive_epsilon(GAUSSIAN, DELTA, -1)
