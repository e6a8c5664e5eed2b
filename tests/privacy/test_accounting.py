"""Accounting against closed forms, numerical integration, published numbers and other accountants."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from fedsim.privacy import accounting_rdp
from fedsim.privacy.accounting import (
    AccountantsDisagree,
    check_delta,
    cross_check,
    epsilon,
    prv_epsilon,
    rdp_epsilon,
    rough_epsilon,
    to_dp_event,
    to_json,
)
from fedsim.privacy.accounting_pld import Mechanism, Steps, pld_epsilon
from fedsim.privacy.accounting_profiles import profile
from fedsim.privacy.calibration import calibrate_noise
from fedsim.privacy.events import Composition, Event, Relation, Sampling, compose

ADD_REMOVE = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
REPLACE_ONE = dp_accounting.NeighboringRelation.REPLACE_ONE


def steps(
    rate: float,
    noise: float,
    count: int,
    relation: Relation = "add-remove",
    sampling: Sampling = "poisson",
) -> Composition:
    return compose([(Event(noise, rate, sampling, relation), count)])


# --- published and independently computed numbers


@pytest.mark.parametrize(
    ("rate", "noise", "count", "delta", "expected"),
    [
        (256 / 60000, 1.1, 14063, 1e-5, 2.3818),
        (0.005, 1.0, 1500, 1e-6, 1.2291),
        (1, 10, 100, 1e-5, 4.3772),
        (1 / 240, 1.3, 3600, 1e-5, 0.853),
    ],
)
def test_known_answers(rate: float, noise: float, count: int, delta: float, expected: float) -> None:
    assert epsilon(steps(rate, noise, count), delta) == pytest.approx(expected, abs=3e-4)


def test_known_heterogeneous_answer() -> None:
    parts = [(1.0, 0.01, 100), (0.8, 0.02, 50), (1.0, 0.01, 100)]
    mixed = compose((Event(noise, rate, "poisson"), count) for noise, rate, count in parts)
    assert epsilon(mixed, 1e-5) == pytest.approx(2.2803, abs=3e-4)


# --- one step: hockey-stick divergences by numerical integration, knowing nothing of the closed forms


def _pair(direction: str, shift: float, rate: float):  # type: ignore[no-untyped-def]
    def mixture(mean: float):  # type: ignore[no-untyped-def]
        return lambda x: (1 - rate) * norm.pdf(x) + rate * norm.pdf(x, mean)

    return {
        "remove": (mixture(shift), norm.pdf),
        "add": (norm.pdf, mixture(shift)),
        "replace": (mixture(shift), mixture(-shift)),
    }[direction]


def _integrated_delta(direction: str, shift: float, rate: float, eps: float) -> float:
    upper, lower = _pair(direction, shift, rate)
    grid = np.linspace(-12 - shift, 12 + shift, 4001)
    positive = upper(grid) - math.exp(eps) * lower(grid) > 0
    if not positive.any():
        return 0.0
    # The positive part is a half-line; its edge is found, so that only smooth functions are integrated.
    edge = int(np.argmax(positive)) if positive[-1] else int(len(grid) - np.argmax(positive[::-1]))
    if 0 < edge < len(grid):
        root = brentq(lambda x: upper(x) - math.exp(eps) * lower(x), grid[edge - 1], grid[edge], xtol=1e-14)
    else:
        root = grid[0]
    ends = (root, grid[-1]) if positive[-1] else (grid[0], root)
    knots = np.linspace(*ends, 9)
    parts = (
        quad(lambda x: upper(x) - math.exp(eps) * lower(x), a, b, epsabs=1e-14, epsrel=1e-11)
        for a, b in itertools.pairwise(knots)
    )
    return sum(part for part, _ in parts)


ONE_STEP = [(0.01, 0.7), (0.05, 1.0), (0.2, 0.8), (0.5, 2.0), (0.9, 1.0)]


@pytest.mark.parametrize("direction", ["remove", "add", "replace"])
@pytest.mark.parametrize(("rate", "noise"), ONE_STEP)
def test_profiles_equal_numerical_integration(direction: str, rate: float, noise: float) -> None:
    for eps in (-2.0, -0.3, -0.004, 0.0, 0.004, 0.3, 2.0):
        ours = profile(direction, np.array([eps]), 1 / noise, rate)[0]  # type: ignore[arg-type]
        assert ours == pytest.approx(_integrated_delta(direction, 1 / noise, rate, eps), abs=1e-11, rel=1e-8)


@pytest.mark.parametrize(("rate", "noise"), ONE_STEP)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
def test_one_step_epsilon_is_a_tight_upper_bound(rate: float, noise: float, delta: float, relation: Relation) -> None:
    directions = ("remove", "add") if relation == "add-remove" else ("replace",)

    def excess(eps: float) -> float:
        return max(_integrated_delta(way, 1 / noise, rate, eps) for way in directions) - delta

    truth = brentq(excess, 0.0, 30.0, xtol=1e-9) if excess(0.0) > 0 else 0.0
    assert truth * (1 - 1e-7) <= epsilon(steps(rate, noise, 1, relation), delta) <= truth * (1 + 1e-3) + 1e-5


# --- composition: the exact Gaussian, and dp-accounting


@pytest.mark.parametrize(("shift", "count"), [(1.0, 20000), (0.1, 5000), (5.0, 300), (40.0, 1000), (447.0, 2000)])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-12])
def test_numerical_composition_is_a_tight_upper_bound_of_the_exact_gaussian(
    shift: float, count: int, delta: float
) -> None:
    # dp-accounting's own FFT is 0.2 % too small at 20000 steps and delta 1e-12, which tilting avoids.
    exact = dp_accounting.get_epsilon_gaussian(1 / shift, delta)
    parts = ((Mechanism("gaussian", shift / math.sqrt(count), 1.0), count),)
    assert exact * (1 - 1e-9) <= pld_epsilon(parts, delta, 1.2 * exact) <= exact * (1 + 5e-4)


@pytest.mark.parametrize("mu", [1e-3, 0.03, 1.0, 20.0, 440.0])
def test_unsampled_events_use_the_closed_form(mu: float) -> None:
    from mpmath import findroot, mp, mpf, ncdf  # type: ignore[import-untyped]

    events = [Event(math.sqrt(2) / mu), Event(2 / mu, 1.0, "poisson")]
    ours = epsilon(compose([(events[0], 1), (events[1], 2)]), 1e-5)
    with mp.workdps(400 if mu > 100 else 60):

        def log_delta(eps):  # type: ignore[no-untyped-def]
            upper, lower = ncdf(mpf(mu) / 2 - eps / mu), ncdf(-mpf(mu) / 2 - eps / mu)
            return mp.log(abs(upper - mp.exp(eps) * lower)) - mp.log(mpf(1e-5))

        truth = float(findroot(log_delta, (0.95 * ours, 1.05 * ours), solver="anderson", tol=1e-12)) if ours else 0.0
    assert ours == pytest.approx(truth, rel=1e-8, abs=1e-9)
    assert epsilon(steps(1.0, 1 / mu, 1), 1e-5) == pytest.approx(ours, rel=1e-9)


@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
@pytest.mark.parametrize(
    ("rate", "noise", "count", "delta"),
    [(0.01, 1.0, 200, 1e-5), (0.1, 2.0, 30, 1e-6), (0.002, 0.8, 500, 1e-5), (0.5, 4.0, 60, 1e-3), (0.99, 3.0, 5, 1e-4)],
)
def test_agrees_with_dp_accounting(rate: float, noise: float, count: int, delta: float, relation: Relation) -> None:
    accountant = dp_accounting.pld.PLDAccountant(
        REPLACE_ONE if relation == "replace-one" else ADD_REMOVE, value_discretization_interval=2e-4
    )
    ours = steps(rate, noise, count, relation)
    theirs = accountant.compose(to_dp_event(ours)).get_epsilon(delta)
    assert epsilon(ours, delta) == pytest.approx(theirs, rel=3e-4, abs=1e-5)


def test_mixed_sampled_and_unsampled_events_agree_with_dp_accounting() -> None:
    for relation, theirs in (("add-remove", ADD_REMOVE), ("replace-one", REPLACE_ONE)):
        parts = [(Event(6.0, 1.0, "none", relation), 3), (Event(9.0, 1.0, "poisson", relation), 2)]
        mixed = compose([*parts, (Event(1.2, 0.05, "poisson", relation), 40)])
        accountant = dp_accounting.pld.PLDAccountant(theirs, value_discretization_interval=2e-4)
        expected = accountant.compose(to_dp_event(mixed)).get_epsilon(1e-5)
        assert epsilon(mixed, 1e-5) == pytest.approx(expected, rel=3e-4)


SUMS = [
    (0.1, 1.0, 100, 1e-5),
    (0.001, 1.0, 100, 1e-7),  # rarely sampled: tilting makes a second hump far out, which the window leaves out
    (0.001, 1.0, 1000, 1e-7),
    (0.02, 1.3, 2000, 1e-6),
    (0.3, 3.0, 2, 1e-4),
    (0.07, 1.1, 1500, 1e-4),
]


def _plainly_summed(rate: float, noise: float, count: int, delta: float, interval: float) -> float:
    """One FFT of all losses, neither tilted nor cut, over both directions; its error is near 1e-14 absolute."""
    from fedsim.privacy.accounting_pld import _one_step

    worst, points = 0.0, 1 << 21
    for direction in ("remove", "add"):
        grid = _one_step(Mechanism("poisson", 1 / noise, rate), direction, interval)
        wrapped = np.bincount(np.arange(grid.first, grid.last + 1) % points, weights=grid.masses, minlength=points)
        density = np.fft.irfft(np.fft.rfft(wrapped) ** count, points)[: min(points // 2, int(60 / interval))]
        losses = np.arange(len(density)) * interval
        above, scaled = (np.cumsum((density * part)[::-1])[::-1] for part in (1.0, np.exp(-losses)))
        index = int(np.argmax(above - np.exp(losses) * scaled + count * grid.infinity <= delta))
        excess = above[index] + count * grid.infinity - delta
        worst = max(worst, float(losses[index] + np.log(excess / (np.exp(losses[index]) * scaled[index]))))
    return worst


@pytest.mark.parametrize(("rate", "noise", "count", "delta"), SUMS)
def test_composing_equals_a_plain_sum_whichever_way_its_tails_are_found(
    rate: float, noise: float, count: int, delta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedsim.privacy import accounting_compose, accounting_pld

    intervals: list[float] = []
    honest = accounting_pld._at_interval

    def noted(parts: Steps, delta: float, interval: float) -> float | None:
        intervals.append(interval)
        return honest(parts, delta, interval)

    monkeypatch.setattr(accounting_pld, "_at_interval", noted)
    for few in (0.0, 1 / 32, 1 / 8):  # by the density alone, as it is, by frequencies wherever they suffice
        monkeypatch.setattr(accounting_compose, "_FEW", few)
        ours = rough_epsilon(steps(rate, noise, count), delta)
        plain = _plainly_summed(rate, noise, count, delta, intervals[-1])
        assert plain * (1 - 1e-9) <= ours <= plain * (1 + 2e-7)


def test_one_more_step_uses_the_spectra_that_are_there() -> None:
    from fedsim.privacy.accounting_compose import _log_spectrum

    rough_epsilon(steps(0.05, 1.0, 1000), 1e-5)
    before = _log_spectrum.cache_info().misses
    for count in range(1001, 1021):
        rough_epsilon(steps(0.05, 1.0, count), 1e-5)
    assert _log_spectrum.cache_info().misses - before <= 2


def test_a_direction_that_cannot_be_the_larger_is_left_out_at_no_loss() -> None:
    from fedsim.privacy.accounting_compose import composed_epsilon
    from fedsim.privacy.accounting_pld import _one_step

    for rate, noise, count in ((0.1, 1.0, 100), (0.5, 3.0, 40), (0.004, 1.3, 24000)):
        mechanism = Mechanism("poisson", 1 / noise, rate)
        grids = [_one_step(mechanism, direction, 2.0**-11) for direction in mechanism.directions]
        alone = [composed_epsilon([grid], [count], 1e-5) for grid in grids]
        for grid, value, other in zip(grids, alone, alone[::-1], strict=True):
            assert value is not None
            assert other is not None
            assert composed_epsilon([grid], [count], 1e-5, floor=other) == max(value, other)


# --- the accountants agree with each other

SETTINGS = [
    (1e-4, 0.5, 20000),
    (1e-4, 1.0, 1),
    (1e-3, 0.6, 1000),
    (1e-3, 4.0, 20000),
    (0.01, 0.5, 100),
    (0.01, 0.7, 1000),
    (0.01, 1.0, 10000),
    (0.01, 10.0, 20000),
    (0.05, 1.0, 1),
    (0.05, 3.0, 5000),
    (0.1, 0.8, 10),
    (0.1, 2.0, 500),
    (0.3, 1.0, 5),
    (0.5, 2.0, 50),
    (0.9, 10.0, 500),
    (1.0, 10.0, 100),
    (1.0, 1.0, 1),
]


@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
@pytest.mark.parametrize(("rate", "noise", "count"), SETTINGS)
def test_accountants_agree(rate: float, noise: float, count: int, relation: Relation) -> None:
    composition = steps(rate, noise, count, relation)
    checked = cross_check(composition, 1e-5)
    assert checked.rdp >= checked.pld
    assert (checked.prv is None) == (rate == 1 or relation == "replace-one")
    if checked.prv is not None:
        assert 0.0085 <= checked.prv - checked.pld <= 0.012  # Opacus adds its allowed error of 0.01


def test_disagreement_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedsim.privacy import accounting

    composition = steps(0.01, 1.0, 1000)
    right = epsilon(composition, 1e-5)
    for name, wrong in (("rdp_epsilon", 0.9), ("prv_epsilon", 0.9), ("prv_epsilon", 1.1)):
        with monkeypatch.context() as patch:
            patch.setattr(accounting, name, lambda *_, wrong=wrong: wrong * right)
            with pytest.raises(AccountantsDisagree):
                cross_check(composition, 1e-5)


def test_reported_epsilon_owes_nothing_to_the_renyi_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else a Renyi accountant that is too low could never be caught by the comparison.
    from fedsim.privacy import accounting

    composition = steps(0.01, 1.0, 1001)
    right = epsilon(composition, 1e-5)
    for wrong in (0.0, 0.1, 0.5 * right, 100.0, 1e6):
        epsilon.cache_clear()
        monkeypatch.setattr(accounting, "rdp_epsilon", lambda *_, wrong=wrong: wrong)
        assert epsilon(composition, 1e-5) == pytest.approx(right, rel=1e-3)


def test_renyi_equals_dp_accounting_at_its_orders() -> None:
    mixed = compose([(Event(1.0, 0.01, "poisson"), 300), (Event(20.0), 5)])
    accountant = dp_accounting.rdp.RdpAccountant(accounting_rdp._INTEGERS, ADD_REMOVE)
    assert rdp_epsilon(mixed, 1e-5) == pytest.approx(accountant.compose(to_dp_event(mixed)).get_epsilon(1e-5), rel=1e-9)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 0.7), (0.2, 1.0), (0.9, 3.0)])
def test_renyi_quadrature_equals_the_closed_form_at_integer_orders(rate: float, noise: float) -> None:
    accountant = dp_accounting.rdp.RdpAccountant([2, 3, 8, 32], ADD_REMOVE)
    event = Event(noise, rate, "poisson")
    exact = accountant.compose(to_dp_event(compose([(event, 1)]))).rdp
    assert [accounting_rdp._quadrature(event, a) for a in (2, 3, 8, 32)] == pytest.approx(list(exact), rel=1e-9)


def test_opacus_is_not_asked_for_too_much() -> None:
    assert prv_epsilon(steps(0.5, 0.3, 20000), 1e-5) is None  # epsilon in the tens of thousands
    assert prv_epsilon(steps(0.1, 3.0, 10**7), 1e-5) is None
    assert prv_epsilon((), 1e-5) is None


# --- fixed-size cohorts


def test_fixed_size_cohort_is_a_valid_upper_bound() -> None:
    result = epsilon(steps(0.1, 1.5, 100, "replace-one", "fixed"), 1e-3)
    assert 8.68 <= result <= 9.96
    assert rdp_epsilon(steps(0.1, 1.5, 100, "replace-one", "fixed"), 1e-3) >= result
    assert result >= epsilon(steps(0.1, 1.5, 100, "replace-one", "poisson"), 1e-3)


def test_fixed_size_cohort_is_exact_for_one_step() -> None:
    # All others hold -v, the unit holds v or -v: (1-q) N(0, z^2) + q N(2, z^2) against N(0, z^2).
    truth = brentq(lambda eps: _integrated_delta("remove", 2 / 1.5, 0.1, eps) - 1e-5, 0.0, 30.0)
    assert epsilon(steps(0.1, 1.5, 1, "replace-one", "fixed"), 1e-5) == pytest.approx(truth, rel=1e-3)


def test_fixed_size_cohort_of_everyone_is_the_gaussian_of_a_replacement() -> None:
    everyone = epsilon(steps(1.0, 6.0, 4, "replace-one", "fixed"), 1e-5)
    assert everyone == pytest.approx(epsilon(steps(1.0, 3.0, 4), 1e-5), rel=1e-9)


@pytest.mark.parametrize("relation", ["add-remove", "zero-out"])
def test_fixed_size_cohort_gives_no_amplification_otherwise(relation: Relation) -> None:
    with pytest.raises(ValueError, match="no amplification"):
        epsilon(steps(0.1, 1.5, 100, relation, "fixed"), 1e-5)


# --- relations, edges, monotonicity


def test_replacing_doubles_the_sensitivity() -> None:
    assert epsilon(steps(1, 4.0, 10, "replace-one"), 1e-5) == epsilon(steps(1, 2.0, 10), 1e-5)
    assert rdp_epsilon(steps(1, 4.0, 10, "replace-one"), 1e-5) == rdp_epsilon(steps(1, 2.0, 10), 1e-5)


def test_zero_out_costs_what_add_remove_costs() -> None:
    assert epsilon(steps(1, 4.0, 10, "zero-out", "none"), 1e-5) == epsilon(steps(1, 4.0, 10), 1e-5)
    assert epsilon(steps(0.1, 4.0, 10, "zero-out"), 1e-5) == epsilon(steps(0.1, 4.0, 10), 1e-5)


def test_relations_do_not_mix() -> None:
    with pytest.raises(ValueError, match="share"):
        epsilon(compose([(Event(1.0), 1), (Event(1.0, relation="replace-one"), 1)]), 1e-5)


@pytest.mark.parametrize("bound", [epsilon, rdp_epsilon])
def test_edges(bound) -> None:  # type: ignore[no-untyped-def]
    assert bound((), 1e-5) == 0
    assert bound(steps(0.1, 1.0, 0), 1e-5) == 0
    assert bound(steps(0.0, 1.0, 100), 1e-5) == 0
    assert bound(steps(0.0, 0.0, 100), 1e-5) == 0
    assert bound(steps(0.1, 0.0, 1), 1e-5) == math.inf
    assert bound(compose([(Event(0.0), 1), (Event(1.0), 5)]), 1e-5) == math.inf
    assert bound(steps(1.0, math.inf, 5), 1e-5) == 0
    assert bound(steps(0.1, math.inf, 5), 1e-5) == 0
    assert bound(steps(0.1, 1e200, 5, "replace-one", "fixed"), 1e-5) == 0
    assert bound(steps(1e-4, 100.0, 1), 1e-2) == 0


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, 2.0])
def test_delta_outside_its_range_is_refused(delta: float) -> None:
    with pytest.raises(ValueError, match="delta"):
        epsilon(steps(0.1, 1.0, 1), delta)


def test_delta_must_be_below_one_over_the_population() -> None:
    check_delta(1e-5, 99999)
    check_delta(0.5)
    with pytest.raises(ValueError, match="population"):
        check_delta(1e-5, 100000)


@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
def test_monotone_in_count_noise_and_rate(relation: Relation) -> None:
    for values in (
        [epsilon(steps(0.02, 1.0, count, relation), 1e-5) for count in (0, 1, 2, 3, 10, 11, 100, 101, 1000, 1010)],
        [epsilon(steps(0.02, 1 / inverse, 50, relation), 1e-5) for inverse in (0.01, 0.1, 0.5, 0.51, 1.0, 2.0)],
        [epsilon(steps(rate, 1.0, 50, relation), 1e-5) for rate in (0.0, 1e-4, 1e-3, 0.01, 0.011, 0.3, 0.999, 1.0)],
        [epsilon(steps(0.02, 1.0, 50, relation), 10.0**-power) for power in (1, 2, 5, 8, 12)],
    ):
        assert all(value >= 0 for value in values)
        assert values == sorted(values)


@pytest.mark.parametrize(
    ("rate", "noise", "count", "delta"),
    [
        (1e-4, 0.3, 20000, 1e-12),
        (0.99, 0.3, 20000, 1e-2),
        (0.5, 100, 20000, 1e-12),
        (0.05, 0.05, 1000, 1e-5),
        (1e-4, 100, 1, 1e-12),
    ],
)
def test_extreme_settings_stay_affordable_upper_bounds(rate: float, noise: float, count: int, delta: float) -> None:
    kinds: list[tuple[Relation, Sampling]] = [
        ("add-remove", "poisson"),
        ("replace-one", "poisson"),
        ("replace-one", "fixed"),
    ]
    for relation, sampling in kinds:
        result = epsilon(steps(rate, noise, count, relation, sampling), delta)
        assert 0 < result <= rdp_epsilon(steps(rate, noise, count, relation, sampling), delta)
        assert result <= epsilon(steps(1.0, noise, count, relation, sampling), delta)


@settings(max_examples=20, deadline=None)
@given(
    st.permutations([(1.0, 0.01, 30), (0.8, 0.02, 5), (1.0, 0.01, 12), (3.0, 0.3, 7), (9.0, 1.0, 2)]),
    st.integers(0, 30),
)
def test_order_and_splitting_do_not_matter(parts: list[tuple[float, float, int]], first: int) -> None:
    events = [(Event(noise, rate, "poisson"), count) for noise, rate, count in parts]
    split = [(Event(1.0, 0.01, "poisson"), first), (Event(1.0, 0.01, "poisson"), 30 - first)]
    rest = [pair for pair in events if pair != (Event(1.0, 0.01, "poisson"), 30)]
    reference = compose([(Event(noise, rate, "poisson"), count) for noise, rate, count in sorted(parts)])
    # Unsorted on purpose: nothing may hinge on the canonical order.
    assert epsilon(tuple(events), 1e-5) == pytest.approx(epsilon(reference, 1e-5), rel=1e-9)
    assert epsilon(compose([*split, *rest]), 1e-5) == epsilon(reference, 1e-5)


# --- calibration


@pytest.mark.parametrize(
    ("rate", "count", "target", "delta", "sampling", "relation"),
    [
        (0.05, 500, 4.0, 1e-5, "poisson", "add-remove"),
        (0.01, 200, 1.0, 1e-6, "poisson", "replace-one"),
        (0.3, 20, 0.1, 1e-5, "poisson", "add-remove"),
        (0.01, 10, 8.0, 1e-5, "poisson", "add-remove"),
        (0.1, 50, 6.0, 1e-5, "fixed", "replace-one"),
        (1.0, 100, 2.0, 1e-5, "none", "zero-out"),
    ],
)
def test_calibrated_noise_is_the_smallest(
    rate: float, count: int, target: float, delta: float, sampling: Sampling, relation: Relation
) -> None:
    def at(noise: float) -> Composition:
        return steps(rate, noise, count, relation, sampling)

    for guess in (None, 30.0, 0.05):
        noise = calibrate_noise(at, target, delta, guess)
        assert epsilon(at(noise), delta) <= target < epsilon(at(noise * (1 - 2e-4)), delta)


def test_calibration_takes_what_is_already_spent_into_account() -> None:
    spent = (Event(2.0, 0.05, "poisson"), 100)

    def at(noise: float) -> Composition:
        return compose([spent, (Event(noise, 0.05, "poisson"), 100)])

    noise = calibrate_noise(at, 3.0, 1e-5)
    assert epsilon(at(noise), 1e-5) <= 3.0
    with pytest.raises(ValueError, match="no noise multiplier"):
        calibrate_noise(at, 0.9 * epsilon(compose([spent]), 1e-5), 1e-5)


def test_calibration_edges() -> None:
    assert calibrate_noise(lambda noise: steps(0.1, noise, 0), 1.0, 1e-5) == 0.0
    for target in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="target_epsilon"):
            calibrate_noise(lambda noise: steps(0.1, noise, 1), target, 1e-5)


# --- exports


def test_exports_hold_every_event() -> None:
    mixed = compose([(Event(1.0, 0.25, "poisson"), 3), (Event(2.0), 1)])
    assert to_json(mixed) == [
        {"noise_multiplier": 1.0, "rate": 0.25, "sampling": "poisson", "relation": "add-remove", "count": 3},
        {"noise_multiplier": 2.0, "rate": 1.0, "sampling": "none", "relation": "add-remove", "count": 1},
    ]
    fixed = to_dp_event(steps(0.1, 1.5, 7, "replace-one", "fixed")).events[0]
    assert (fixed.count, fixed.event.sample_size, fixed.event.source_dataset_size) == (7, 1, 10)
