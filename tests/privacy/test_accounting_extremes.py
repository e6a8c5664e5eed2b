"""Many steps, rare sampling, hardly any noise: the reported epsilon is an upper bound at the edges too."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedsim.privacy import accounting_compose, accounting_rdp
from fedsim.privacy.accounting import epsilon, rdp_epsilon, rough_epsilon
from fedsim.privacy.accounting_compose import composed_epsilon
from fedsim.privacy.accounting_grids import Grid
from fedsim.privacy.accounting_pld import Mechanism, _one_step
from fedsim.privacy.accounting_profiles import profile
from fedsim.privacy.events import Event, Relation, compose

Long = np.longdouble
needs_long_doubles = pytest.mark.skipif(np.finfo(Long).eps > 1e-18, reason="no long double beyond a double here")


def _long_sum(grid: Grid, count: int, delta: float, tilt: float, ends: tuple[float, float]) -> float:
    """Epsilon of ``count`` losses of a grid in long doubles: one tilted FFT over the losses between ``ends``."""
    from scipy import fft

    start = math.floor(ends[0] / grid.interval)
    points = fft.next_fast_len(math.ceil(ends[1] / grid.interval) - start, real=True)
    index = np.arange(grid.first, grid.last + 1)
    weights = grid.masses.astype(Long) * np.exp(Long(tilt) * index * grid.interval)
    wrapped = np.zeros(points, Long)
    np.add.at(wrapped, index % points, weights / weights.sum())
    spectrum = fft.rfft(wrapped)
    turned = np.exp(count * np.log(np.maximum(np.abs(spectrum), Long(1e-300))) + 1j * (count * np.angle(spectrum)))
    density = np.roll(fft.irfft(turned, points), -(start % points))[-start:]
    losses = np.arange(len(density)) * Long(grid.interval)
    masses = density * np.exp(count * np.log(weights.sum()) - tilt * losses)
    low, high = 0, len(losses) - 1
    while high - low > 1:
        middle = (low + high) // 2
        excess = (masses[middle:] * -np.expm1(losses[middle] - losses[middle:])).sum() + count * grid.infinity - delta
        low, high = (middle, high) if excess > 0 else (low, middle)
    return float(losses[low])


@needs_long_doubles
@pytest.mark.parametrize(
    ("rate", "noise", "count", "delta"),
    [(1.52e-5, 0.7316, 612_985, 8.3e-14), (1.52e-5, 0.7316, 306_000, 1e-13), (3e-6, 0.75, 3_000_000, 8e-14)],
)
def test_rounding_that_a_count_multiplies_stays_within_what_is_added(
    rate: float, noise: float, count: int, delta: float
) -> None:
    """Rarely sampled steps have a far second hump, so what is left of the tilted sum at epsilon is faint."""
    grid = _one_step(Mechanism("replace", 1 / noise, rate), "replace", 2.0**-15)
    value, truth = composed_epsilon([grid], [count], delta), _long_sum(grid, count, delta, 8.0, (-5.5, 8.0))
    assert value is not None
    assert truth * (1 - 1e-9) <= value <= truth * 1.001


@pytest.mark.parametrize("interval", [2.0**-13, 2.0**-15])
@pytest.mark.parametrize(("rate", "shift"), [(0.5, 0.01), (0.1, 1.0)])
def test_a_discretised_step_is_exact_at_its_grid_points(rate: float, shift: float, interval: float) -> None:
    grid = _one_step(Mechanism("poisson", shift, rate), "remove", interval)
    losses = np.arange(grid.first, grid.last + 1) * Long(interval)
    masses = grid.masses.astype(Long)
    for start in range(0, len(losses), 1 + len(losses) // 3):
        ours = (masses[start:] * -np.expm1(losses[start] - losses[start:])).sum() + grid.infinity
        truth = profile("remove", losses[start : start + 1].astype(float), shift, rate)[0]
        assert truth * (1 - 1e-15) <= ours <= truth * (1 + 1e-6) + 1e-20


@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
@pytest.mark.parametrize(("noise", "rate"), [(1e-3, 0.5), (1e-3, 1e-6), (4e-3, 0.7)])
def test_hardly_any_noise_gives_a_finite_bound_that_sampling_does_not_make_larger(
    noise: float, rate: float, relation: Relation
) -> None:
    for count in (1, 10_000_000):
        value = rough_epsilon(compose([(Event(noise, rate, "poisson", relation), count)]), 1e-5)
        assert 1e4 < value <= epsilon(compose([(Event(noise, 1.0, "poisson", relation), count)]), 1e-5) < math.inf


@pytest.mark.parametrize(("rate", "noise", "order"), [(0.99, 10.0, 256), (0.9, 30.0, 1024), (0.9999999, 3.0, 96)])
def test_renyi_of_a_replacement_covers_the_far_peak(rate: float, noise: float, order: int) -> None:
    """Against the same integral over all that either mean can reach, finely."""
    y = np.linspace(-20, 20 + 2 * order / noise, 200_001)
    upper, lower = (
        np.logaddexp(math.log1p(-rate), math.log(rate) + mean * y - mean**2 / 2) for mean in (1 / noise, -1 / noise)
    )
    logs = -(y**2) / 2 + order * upper + (1 - order) * lower
    moment = math.log(np.exp(logs - logs.max()).sum() * (y[1] - y[0]) / math.sqrt(2 * math.pi)) + logs.max()
    ours = accounting_rdp._quadrature(Event(noise, rate, "poisson", "replace-one"), order)
    assert ours == pytest.approx(moment / (order - 1), rel=1e-9)


@pytest.mark.parametrize("relation", ["add-remove", "replace-one"])
@pytest.mark.parametrize(("rate", "noise", "delta"), [(1e-4, 1000.0, 1e-5), (1e-5, 300.0, 1e-6)])
def test_renyi_is_never_below_the_reported_number_where_steps_lose_hardly_anything(
    rate: float, noise: float, delta: float, relation: Relation
) -> None:
    composition = compose([(Event(noise, rate, "poisson", relation), 10_000_000)])
    assert 0 < rough_epsilon(composition, delta) <= rdp_epsilon(composition, delta)


def test_hundreds_of_events_are_summed_without_keeping_all_their_spectra() -> None:
    import tracemalloc

    grids = [_one_step(Mechanism("poisson", 0.5 + i / 100, 0.05), "remove", 2.0**-10) for i in range(48)]
    window, points = accounting_compose._Window(1.0, -100.0, 100.0, -23.0), 204_800
    tracemalloc.start()
    try:
        accounting_compose._Sum.of(grids, [1] * 48, window)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * 8 * points  # all of them at once would take 2 x 48, and as much again to add them up
